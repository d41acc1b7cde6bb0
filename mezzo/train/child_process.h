#pragma once

#include <cstdio>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include <sys/types.h>

namespace mezzo::train {

/// This very program with other arguments, in a process of its own.
class ChildProcess {
 public:
  /// Whether a Ctrl-C at the terminal reaches it as it does the parent.
  enum class Group { kParents, kOwn };

  /// errors: the file that what it writes to stderr is added to; empty: it comes with the output.
  /// Throws Error if it cannot be started.
  ChildProcess(const std::vector<std::string>& arguments, const std::filesystem::path& errors,
               Group group);
  /// wait()
  ~ChildProcess();
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;

  /// To its stdin.
  void write(const std::string& text);
  /// The next line of its stdout, without the newline; nothing at its end.
  std::optional<std::string> read_line();
  /// Ends its stdin, passes over the rest of its output, and waits for its end: waitpid's status.
  int wait();

 private:
  pid_t process_ = -1;
  FILE* to_ = nullptr;  // until wait()
  FILE* from_ = nullptr;
  std::optional<int> status_;
};

}  // namespace mezzo::train
