#include "mezzo/train/worker.h"

#include <csignal>
#include <cstring>
#include <utility>

#include <fmt/format.h>
#include <sys/wait.h>

#include "mezzo/base/atomic_file.h"

namespace mezzo::train {
namespace {

std::string last_line(std::string text) {
  while (!text.empty() && text.back() == '\n') text.pop_back();
  const size_t newline = text.rfind('\n');
  return newline == std::string::npos ? text : text.substr(newline + 1);
}

}  // namespace

Worker::Worker(const std::vector<std::string>& arguments, std::filesystem::path log)
    : log_(std::move(log)), process_(arguments, log_, ChildProcess::Group::kOwn) {}

bool Worker::wait_until_ready() { return heard_of_step(); }

bool Worker::advance_to(int64_t step) {
  process_.write(fmt::format("go {}\n", step));
  return heard_of_step();
}

// Other lines are a run's notes, of no use here.
bool Worker::heard_of_step() {
  while (const std::optional<std::string> line = process_.read_line()) {
    if (line->starts_with("at ")) return true;
    if (line->starts_with("end")) return false;
  }
  return false;
}

std::optional<std::string> Worker::failure() {
  const int status = process_.wait();
  if (WIFSIGNALED(status)) {
    const int signal = WTERMSIG(status);
    return fmt::format("ended by signal {} ({}){}", signal, strsignal(signal),
                       signal == SIGKILL ? ": out of memory? Hint: --one-at-a-time" : "");
  }
  constexpr int kDone = 0, kInterrupted = 130;
  const int code = WEXITSTATUS(status);
  if (code == kDone || code == kInterrupted) return std::nullopt;
  const std::string said = last_line(read_file(log_));
  return said.empty() ? fmt::format("exit code {}", code) : said;
}

}  // namespace mezzo::train
