#pragma once

namespace mezzo::report {

/// What an open file can show.
struct Terminal {
  bool is_terminal = false;  // a line can be redrawn in place
  bool has_colour = false;   // a terminal, and NO_COLOR (no-color.org) is unset or empty
  bool has_unicode = false;  // the locale says UTF-8
};

/// Looks at the file descriptor and the environment (TERM=dumb is no terminal).
Terminal terminal_at(int fd);

/// Columns of the terminal at `fd` now; 80 if it does not say.
int terminal_width(int fd);

}  // namespace mezzo::report
