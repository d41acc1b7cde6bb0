#include <csignal>
#include <string_view>
#include <thread>

#include <unistd.h>

#include "mezzo/cli/commands.h"

namespace mezzo::cli {
namespace {

std::atomic<bool> flag{false};

// A step, an evaluation or a checkpoint may take a while to end.
void acknowledge() {
  constexpr std::string_view kText = "\nmezzo: stopping; Ctrl-C again ends it at once\n";
  [[maybe_unused]] const ssize_t written = ::write(STDERR_FILENO, kText.data(), kText.size());
}

int next_of(const sigset_t& signals) {
  int number = 0;
  while (::sigwait(&signals, &number) != 0) {
  }
  return number;
}

void listen(sigset_t signals) {
  next_of(signals);
  flag = true;
  acknowledge();
  const int second = next_of(signals);
  std::signal(second, SIG_DFL);  // a shell's background jobs begin with SIGINT ignored
  ::pthread_sigmask(SIG_UNBLOCK, &signals, nullptr);
  ::raise(second);
}

bool is_ignored(int number) {
  struct sigaction action {};
  return ::sigaction(number, nullptr, &action) == 0 && action.sa_handler == SIG_IGN;
}

// Note [No signal on a computing thread's stack]
// A handler runs on the stack of the thread that it interrupts. oneDNN's fp32 product (libtorch
// 2.11) keeps data below its stack pointer, where the handler's frame goes: one Ctrl-C in some tens
// then corrupted the heap. So the signals are blocked in all threads, which inherit that from the
// first, and one thread that does nothing else waits for them.
bool start_listening() {
  sigset_t signals;
  ::sigemptyset(&signals);
  ::sigaddset(&signals, SIGINT);
  ::sigaddset(&signals, SIGTERM);
  if (!is_ignored(SIGHUP)) ::sigaddset(&signals, SIGHUP);  // ignored: nohup
  ::pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  std::signal(SIGPIPE, SIG_IGN);  // a run outlives whoever reads its output
  std::thread(listen, signals).detach();
  return true;
}

}  // namespace

const std::atomic<bool>& interrupted() {
  [[maybe_unused]] static const bool is_listening = start_listening();
  return flag;
}

void interrupt() { flag = true; }

}  // namespace mezzo::cli
