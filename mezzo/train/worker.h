#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "mezzo/train/child_process.h"

namespace mezzo::train {

/// A run in a process of its own that takes its steps when it is told to: `mezzo train --paced`,
/// spoken to as report::Pacer answers. A Ctrl-C at the terminal reaches only the parent.
class Worker {
 public:
  /// Starts this very program with `arguments`; what it writes to stderr goes into `log`. Throws
  /// Error if it cannot be started.
  Worker(const std::vector<std::string>& arguments, std::filesystem::path log);
  // Its end hangs up, so that the run writes a checkpoint and ends, and waits for that.

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

  std::filesystem::path log_;
  ChildProcess process_;
};

}  // namespace mezzo::train
