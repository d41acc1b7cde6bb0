#include "mezzo/cli/wrapped_help.h"

#include <algorithm>
#include <cstdlib>
#include <sstream>

#include <unistd.h>

#include "mezzo/report/terminal.h"

namespace mezzo::cli {
namespace {

size_t help_width() {
  const char* given = std::getenv("COLUMNS");
  const int columns = given == nullptr ? 0 : std::atoi(given);
  const int width = columns > 0 ? columns : report::terminal_width(STDOUT_FILENO);
  return static_cast<size_t>(std::clamp(width, 60, 120));
}

// A word that is longer than a line has one to itself.
std::string wrapped(std::string text, size_t width) {
  for (size_t begin = 0; text.size() - begin > width;) {
    size_t end = text.find('\n', begin);
    if (end > begin + width) {
      end = text.rfind(' ', begin + width);
      if (end == text.npos || end <= begin) end = text.find(' ', begin + width);
    }
    if (end == text.npos) break;
    text[end] = '\n';
    begin = end + 1;
  }
  return text;
}

}  // namespace

std::string WrappedHelp::make_description(const CLI::App* app) const {
  return wrapped(CLI::Formatter::make_description(app), help_width());
}

std::string WrappedHelp::make_subcommand(const CLI::App* command) const {
  std::ostringstream out;
  CLI::detail::format_help(out, command->get_display_name(true),
                           wrapped(command->get_description(), help_width() - column_width_),
                           column_width_);
  return out.str();
}

std::string WrappedHelp::make_option_desc(const CLI::Option* option) const {
  return wrapped(option->get_description(), help_width() - column_width_);
}

}  // namespace mezzo::cli
