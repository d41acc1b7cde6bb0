#include <cerrno>
#include <csignal>
#include <string_view>

#include <unistd.h>

#include "mezzo/cli/commands.h"

namespace mezzo::cli {
namespace {

std::atomic<bool> flag{false};
static_assert(std::atomic<bool>::is_always_lock_free,
              "a signal handler may only touch lock-free atomics");

// A step, an evaluation or a checkpoint may take a while to end. Only write() is allowed here.
void acknowledge() {
  constexpr std::string_view kText = "\nmezzo: stopping; Ctrl-C again ends it at once\n";
  const int error = errno;
  [[maybe_unused]] const ssize_t written = ::write(STDERR_FILENO, kText.data(), kText.size());
  errno = error;
}

void on_signal(int number) {
  flag = true;
  std::signal(number, SIG_DFL);
  acknowledge();
}

}  // namespace

const std::atomic<bool>& interrupted() {
  static const bool installed = [] {
    std::signal(SIGINT, on_signal);
    std::signal(SIGTERM, on_signal);
    if (std::signal(SIGHUP, on_signal) == SIG_IGN) std::signal(SIGHUP, SIG_IGN);  // nohup
    std::signal(SIGPIPE, SIG_IGN);  // a run outlives whoever reads its output
    return true;
  }();
  static_cast<void>(installed);
  return flag;
}

void interrupt() { flag = true; }

}  // namespace mezzo::cli
