#include "tools/manual.h"

#include <algorithm>
#include <cctype>
#include <utility>

namespace sqlstream::tools {
namespace {

constexpr std::pair<const char*, const char*> kEnvironment[] = {
    {"SQLSTREAM_CONFIG, LITESTREAM_CONFIG",
     "The configuration file; the first one that is set counts, and the flag -config before it."},
    {"SQLSTREAM_REPLICA_URL",
     "The replica of every database opened through the extension that has no other; {name} and "
     "{path} stand for the database's."},
    {"AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_PROFILE",
     "Credentials for S3, as for AWS's own tools; also LITESTREAM_ACCESS_KEY_ID and "
     "LITESTREAM_SECRET_ACCESS_KEY."},
    {"AWS_REGION, AWS_DEFAULT_REGION, AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL",
     "What a replica's URL leaves open."},
};

// Text as roff takes it: nothing of it is a request or an escape.
std::string roff(std::string_view text) {
  std::string result;
  bool line_begins = true;
  for (const char c : text) {
    if (line_begins && (c == '.' || c == '\'')) result += "\\&";
    if (c == '\\') {
      result += "\\e";
    } else if (c == '-') {
      result += "\\-";
    } else if (c == '\'') {
      result += "\\(aq";
    } else {
      result += c;
    }
    line_begins = c == '\n';
  }
  return result;
}

std::string bold(std::string_view text) {
  return "\\fB" + roff(text) + "\\fR";
}

std::string italic(std::string_view text) {
  return "\\fI" + roff(text) + "\\fR";
}

// In lines of a usual length, as people write these pages.
std::string paragraph(std::string_view text) {
  return roff(wrapped(text, 78)) + '\n';
}

std::string synopsis(const std::string& called, const Command& command) {
  std::string line = bold(called);
  if (!command.flags.empty()) line += " [" + italic("flags") + ']';
  if (!command.arguments.empty()) line += ' ' + italic(command.arguments);
  return line + '\n';
}

std::string flags_of(const Command& command) {
  std::string text;
  for (const Flag& flag : command.flags) {
    text += ".TP\n" + bold('-' + flag.name) + (flag.value.empty() ? "" : ' ' + italic(flag.value)) +
            '\n' + paragraph(flag.about);
  }
  return text;
}

std::string description(const ProgramShape& program) {
  if (!program.by_name) {
    const Command& command = program.commands.front();
    return ".SH DESCRIPTION\n" + paragraph(command.about) + ".SH OPTIONS\n" + flags_of(command);
  }
  std::string text = ".SH DESCRIPTION\n" +
                     paragraph(
                         "Shows and restores what the SQLite extension of the same name "
                         "replicates. Flags have one dash or two, and their value behind a "
                         "space or \"=\".") +
                     ".SH COMMANDS\n";
  for (const Command& command : program.commands) {
    text += ".SS " + roff(command.name) + '\n' +
            synopsis(program.name + ' ' + command.name, command) + ".PP\n" +
            paragraph(command.about) + flags_of(command);
  }
  return text;
}

std::string examples(const ProgramShape& program) {
  std::string text = ".SH EXAMPLES\n.nf\n";
  for (const Command& command : program.commands) {
    const std::string called = program.by_name ? program.name + ' ' + command.name : program.name;
    for (const std::string& example : command.examples) {
      text += roff(called + (example.empty() ? "" : " ") + example) + '\n';
    }
  }
  return text + ".fi\n";
}

std::string exit_status(const ProgramShape& program) {
  std::string text =
      "0 when all is done, 1 when something failed; what failed is one sentence on the "
      "standard error.";
  for (const Command& command : program.commands) {
    if (command.usage_code == 1) continue;
    text += program.by_name ? " A wrong command line of " + command.name + " gives "
                            : std::string(" A wrong command line gives ");
    text += std::to_string(command.usage_code) + '.';
  }
  return ".SH EXIT STATUS\n" + paragraph(text);
}

}  // namespace

std::string manual_page(const ProgramShape& program) {
  std::string title = program.name;
  std::transform(title.begin(), title.end(), title.begin(),
                 [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
  std::string page = ".TH " + roff(title) +
                     " 1 \"\" \"sqlstream " SQLSTREAM_VERSION "\" \"User Commands\"\n.SH NAME\n" +
                     roff(program.name) + " \\- " + roff(program.summary) + "\n.SH SYNOPSIS\n";
  if (program.by_name) {
    page += bold(program.name) + ' ' + italic("COMMAND") + " [" + italic("flags") + "] [" +
            italic("ARGUMENT") + "]...\n";
  } else {
    page += synopsis(program.name, program.commands.front());
  }
  page += description(program) + exit_status(program) + ".SH ENVIRONMENT\n";
  for (const auto& [names, about] : kEnvironment) {
    page += ".TP\n" + bold(names) + '\n' + paragraph(about);
  }
  page += ".SH FILES\n.TP\n" + bold("/etc/sqlstream.yml") + ", " + bold("/etc/litestream.yml") +
          '\n' + paragraph("The configuration file when none is named: the first that is there.");
  page += examples(program);
  const std::string other = program.by_name ? "sqlstream-restore" : "sqlstream";
  return page + ".SH SEE ALSO\n" + bold(other) + "(1), " + bold("sqlite3") + "(1)\n";
}

}  // namespace sqlstream::tools
