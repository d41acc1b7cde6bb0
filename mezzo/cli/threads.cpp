#include "mezzo/cli/threads.h"

#include <algorithm>
#include <thread>

#include <ATen/Parallel.h>

#include "mezzo/base/check.h"

namespace mezzo::cli {

void use_threads(int64_t threads) {
  // Where the system refuses some of them, libtorch waits for them for ever. A run of a larger
  // machine may go on here, with the same bits, on as many threads as it had there.
  constexpr int64_t kLargeMachine = 256, kThreadsPerCore = 4;
  const int64_t cores = std::max<int64_t>(1, std::thread::hardware_concurrency());
  const int64_t most = std::max(kLargeMachine, kThreadsPerCore * cores);
  MEZZO_CHECK_USAGE(threads >= 0 && threads <= most, "threads",
                    "threads must be from 0 to {} on this machine of {} cores, but is {}. Hint: "
                    "--threads 0 takes one per core",
                    most, cores, threads);
  if (threads > 0) at::set_num_threads(static_cast<int>(threads));
}

}  // namespace mezzo::cli
