#include "tools/completions.h"

#include <algorithm>

namespace sqlstream::tools {
namespace {

std::string replaced(std::string_view text, char what, std::string_view by) {
  std::string result;
  for (const char c : text) result += c == what ? std::string(by) : std::string(1, c);
  return result;
}

// In single quotes, for a POSIX shell.
std::string quoted(std::string_view text) {
  return '\'' + replaced(text, '\'', "'\\''") + '\'';
}

// The same for fish, where a backslash escapes in single quotes.
std::string fish_quoted(std::string_view text) {
  return '\'' + replaced(replaced(text, '\\', "\\\\"), '\'', "\\'") + '\'';
}

std::string function_of(const ProgramShape& program) {
  return '_' + replaced(program.name, '-', "_");
}

const char* word_of(Completion completion) {
  switch (completion) {
    case Completion::file:
      return "file";
    case Completion::program:
      return "program";
    case Completion::nothing:
      break;
  }
  return "nothing";
}

template <class Wanted>
std::string flag_words(const Command& command, Wanted&& wanted) {
  std::string words;
  for (const Flag& flag : command.flags) {
    if (wanted(flag)) words += (words.empty() ? "-" : " -") + flag.name;
  }
  return words;
}

// What bash must know of one command.
std::string bash_facts(const Command& command) {
  const std::string all = flag_words(command, [](const Flag&) { return true; });
  const std::string valued =
      flag_words(command, [](const Flag& flag) { return !flag.value.empty(); });
  const std::string files =
      flag_words(command, [](const Flag& flag) { return flag.completion == Completion::file; });
  return "flags=" + quoted(' ' + all + (all.empty() ? "-help" : " -help")) +
         " valued=" + quoted(valued) + " files=" + quoted(files) +
         " arguments=" + word_of(command.completion);
}

std::string zsh_action(Completion completion) {
  if (completion == Completion::file) return "_files";
  return " ";
}

// A text inside a specification of zsh's _arguments.
std::string zsh_text(std::string_view text) {
  std::string result;
  for (const char c : text) {
    if (c == '[' || c == ']' || c == ':' || c == '\\') result += '\\';
    result += c;
  }
  return result;
}

std::string zsh_arguments(const Command& command) {
  std::string line = "_arguments";
  for (const Flag& flag : command.flags) {
    std::string specification = '-' + flag.name + '[' + zsh_text(flag.about) + ']';
    if (!flag.value.empty()) {
      specification += ':' + zsh_text(flag.value) + ':' + zsh_action(flag.completion);
    }
    line += " \\\n        " + quoted(specification);
  }
  if (command.completion == Completion::file) line += " \\\n        '*:argument:_files'";
  if (command.completion == Completion::program) line += " \\\n        '*::command:_normal'";
  return line;
}

std::string fish_flags(const ProgramShape& program, const Command& command) {
  const std::string start =
      "complete -c " + program.name +
      (program.by_name ? " -n '__fish_seen_subcommand_from " + command.name + '\'' : "");
  std::string lines;
  for (const Flag& flag : command.flags) {
    lines += start + " -o " + flag.name;
    if (!flag.value.empty()) lines += flag.completion == Completion::file ? " -r -F" : " -x";
    lines += " -d " + fish_quoted(flag.about) + '\n';
  }
  if (command.completion == Completion::file) lines += start + " -F\n";
  if (command.completion == Completion::program) {
    lines += start + " -xa '(__fish_complete_subcommand --fcs-skip=2)'\n";
  }
  return lines;
}

// To bash, "-flag=value" is three words. Flags are compared with a single dash.
constexpr const char* kBashBegin =
    R"(  local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]}
  local flags= valued= files= arguments=nothing action
  COMPREPLY=()
  if [[ $word == = ]]; then
    word=
  elif [[ $before == = ]]; then
    before=${COMP_WORDS[COMP_CWORD-2]}
  fi
  [[ $before == --?* ]] && before=${before#-}
)";

constexpr const char* kBashEnd = R"(  if [[ " $files " == *" $before "* ]]; then
    arguments=file
  elif [[ " $valued " == *" $before "* ]]; then
    arguments=nothing
  elif [[ $word == --* ]]; then
    COMPREPLY=($(compgen -W "${flags// -/ --}" -- "$word"))
    return
  elif [[ $word == -* ]]; then
    COMPREPLY=($(compgen -W "$flags" -- "$word"))
    return
  fi
  case $arguments in
    file) action=(-f) ;;
    program) action=(-c -f) ;;
    *) return ;;
  esac
  compopt -o filenames 2>/dev/null
  local IFS=$'\n'
  COMPREPLY=($(compgen "${action[@]}" -- "$word"))
)";

}  // namespace

std::string bash_completion(const ProgramShape& program) {
  const std::string function = function_of(program);
  std::string script = "# bash completion for " + program.name + "\n\n" + function + "() {\n";
  script += kBashBegin;
  if (program.by_name) {
    std::string names;
    for (const Command& command : program.commands) names += command.name + ' ';
    names += "help";
    script +=
        "  if ((COMP_CWORD == 1)) || [[ ${COMP_WORDS[1]} == help ]]; then\n    COMPREPLY=($("
        "compgen -W " +
        quoted(names) + " -- \"$word\"))\n    return\n  fi\n";
    script += "  case ${COMP_WORDS[1]} in\n";
    for (const Command& command : program.commands) {
      script += "    " + command.name + ") " + bash_facts(command) + " ;;\n";
    }
    script += "  esac\n";
  } else {
    script += "  " + bash_facts(program.commands.front()) + '\n';
  }
  script += kBashEnd;
  return script + "}\ncomplete -F " + function + ' ' + program.name + '\n';
}

std::string zsh_completion(const ProgramShape& program) {
  std::string script = "#compdef " + program.name + "\n\n";
  if (!program.by_name) return script + zsh_arguments(program.commands.front()) + '\n';
  script += "local -a commands=(\n";
  for (const Command& command : program.commands) {
    script += "  " + quoted(command.name + ':' + command.summary) + '\n';
  }
  script += "  'help:show what there is'\n)\n";
  script +=
      "if (( CURRENT == 2 )) || [[ $words[2] == help ]]; then\n"
      "  _describe -t commands command commands\n"
      "  return\nfi\n"
      "shift words\n(( CURRENT-- ))\n"
      "case $words[1] in\n";
  for (const Command& command : program.commands) {
    script += "  " + command.name + ")\n    " + zsh_arguments(command) + "\n    ;;\n";
  }
  return script + "esac\n";
}

std::string fish_completion(const ProgramShape& program) {
  std::string script =
      "# fish completion for " + program.name + "\n\ncomplete -c " + program.name + " -f\n";
  if (program.by_name) {
    for (const Command& command : program.commands) {
      script += "complete -c " + program.name + " -n __fish_use_subcommand -a " + command.name +
                " -d " + fish_quoted(command.summary) + '\n';
    }
    script += "complete -c " + program.name +
              " -n __fish_use_subcommand -a help -d 'show what there is'\n";
  }
  for (const Command& command : program.commands) script += fish_flags(program, command);
  return script;
}

}  // namespace sqlstream::tools
