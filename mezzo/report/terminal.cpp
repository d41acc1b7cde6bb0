#include "mezzo/report/terminal.h"

#include <cstdlib>
#include <string_view>

#include <sys/ioctl.h>
#include <unistd.h>

namespace mezzo::report {
namespace {

std::string_view environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

bool locale_is_utf8() {
  // The first that is set decides, as in setlocale(3).
  for (const char* name : {"LC_ALL", "LC_CTYPE", "LANG"}) {
    const std::string_view value = environment(name);
    if (!value.empty()) {
      return value.find("UTF-8") != value.npos || value.find("utf8") != value.npos;
    }
  }
  return false;
}

}  // namespace

Terminal terminal_at(int fd) {
  Terminal terminal;
  terminal.is_terminal = ::isatty(fd) == 1 && environment("TERM") != "dumb";
  terminal.has_colour = terminal.is_terminal && environment("NO_COLOR").empty();
  terminal.has_unicode = locale_is_utf8();
  return terminal;
}

int terminal_width(int fd) {
  winsize size{};
  const bool is_known = ::ioctl(fd, TIOCGWINSZ, &size) == 0 && size.ws_col > 0;
  return is_known ? size.ws_col : 80;
}

}  // namespace mezzo::report
