#pragma once

#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include <sys/types.h>

namespace mezzo::train {

/// A run in a process of its own that takes its steps when it is told to: `mezzo train --paced`,
/// spoken to as report::Pacer answers. In a process group of its own, so that a Ctrl-C at the
/// terminal reaches only the parent.
class Worker {
 public:
  /// Starts this very program with `arguments`; what it writes to stderr goes into `log`. Throws
  /// Error if it cannot be started.
  Worker(const std::vector<std::string>& arguments, std::filesystem::path log);
  /// Hangs up, so that the run writes a checkpoint and ends, and waits for that.
  ~Worker();
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  /// Waits until the run is ready for its first step. False: it has ended.
  bool wait_until_ready();

  /// Lets it go on until it has done `step` steps and waits for that. False: it has ended, as it
  /// does after its last step.
  bool advance_to(int64_t step);

  /// Hangs up, waits for its end, and says why it failed: nothing if it is done or was interrupted;
  /// else the signal, or the last line of its log. A diverged run fails too; its summary tells.
  std::optional<std::string> failure();

 private:
  bool heard_of_step();
  void close_input();

  std::filesystem::path log_;
  pid_t process_ = -1;
  FILE* to_ = nullptr;
  FILE* from_ = nullptr;
  std::optional<int> status_;  // of waitpid
};

}  // namespace mezzo::train
