#pragma once

#include <string>
#include <string_view>
#include <vector>

/// What the command line takes: one table, which the parser, the help, the shells' completions and
/// the manual pages all read.
namespace sqlstream::tools {

/// What a shell offers for a flag's value or a command's argument.
enum class Completion { nothing, file, program };

struct Flag {
  std::string name;
  std::string value;  ///< what its value is called; empty: a switch
  std::string about;  ///< one line
  Completion completion = Completion::nothing;
};

struct Command {
  std::string name;
  std::string arguments;  ///< as shown; empty: it takes none
  std::string summary;    ///< a few words
  std::string about;      ///< sentences
  std::vector<Flag> flags;
  std::vector<std::string> examples;  ///< without the program's name
  Completion completion = Completion::nothing;
  /// The exit code for flags it does not know: 1 for the commands Litestream has, as there.
  int usage_code = 1;
  /// Its arguments are a command line of their own: at the first one the flags end.
  bool runs_program = false;
};

/// In the order of the help.
const std::vector<Command>& commands();
const Command* find_command(std::string_view name);

/// The program sqlstream-restore: "restore" alone.
const Command& restore_program();

/// What one of our programs takes: commands by their names, or one command's flags and arguments.
struct ProgramShape {
  std::string name;
  std::string summary;  ///< a few words
  std::vector<Command> commands;
  bool by_name;  ///< the first argument names the command; else there is only one
};

/// sqlstream and sqlstream-restore.
std::vector<ProgramShape> programs();

/// The help of a program with these commands.
std::string usage_of_program(const std::string& program);

/// The help of one command; `program` as it is called, such as "sqlstream restore".
std::string usage_of(const std::string& program, const Command& command);

/// "-flag" or "-flag VALUE".
std::string shown_flag(const Flag& flag);

/// `text` in lines of at most `width` characters.
std::string wrapped(std::string_view text, std::size_t width);

}  // namespace sqlstream::tools
