#include "mezzo/train/worker.h"

#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>

#include <fcntl.h>
#include <fmt/format.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include "mezzo/base/atomic_file.h"
#include "mezzo/base/check.h"

namespace mezzo::train {
namespace {

struct Pipe {
  Pipe() { MEZZO_CHECK(::pipe2(ends.data(), O_CLOEXEC) == 0, "compare", "{}", strerror(errno)); }
  std::array<int, 2> ends{};  // to read from, to write to
};

std::string last_line(std::string text) {
  while (!text.empty() && text.back() == '\n') text.pop_back();
  const size_t newline = text.rfind('\n');
  return newline == std::string::npos ? text : text.substr(newline + 1);
}

}  // namespace

Worker::Worker(const std::vector<std::string>& arguments, std::filesystem::path log)
    : log_(std::move(log)) {
  std::signal(SIGPIPE, SIG_IGN);  // a run that has died is seen at its output, not by a signal
  Pipe input, output;
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, input.ends[0], STDIN_FILENO);
  posix_spawn_file_actions_adddup2(&actions, output.ends[1], STDOUT_FILENO);
  posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, log_.c_str(),
                                   O_WRONLY | O_CREAT | O_APPEND, 0644);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP);

  std::vector<std::string> words = {"mezzo"};
  words.insert(words.end(), arguments.begin(), arguments.end());
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  const int error =
      posix_spawn(&process_, "/proc/self/exe", &actions, &attributes, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  posix_spawnattr_destroy(&attributes);
  ::close(input.ends[0]);
  ::close(output.ends[1]);
  to_ = ::fdopen(input.ends[1], "w");
  from_ = ::fdopen(output.ends[0], "r");
  MEZZO_CHECK(error == 0, "compare", "a run cannot be started in a process of its own: {}",
              strerror(error));
}

Worker::~Worker() {
  failure();
  std::fclose(from_);
}

bool Worker::wait_until_ready() { return heard_of_step(); }

bool Worker::advance_to(int64_t step) {
  std::fprintf(to_, "go %lld\n", static_cast<long long>(step));
  std::fflush(to_);
  return heard_of_step();
}

// Other lines are a run's notes, of no use here.
bool Worker::heard_of_step() {
  std::array<char, 256> line{};
  while (std::fgets(line.data(), line.size(), from_) != nullptr) {
    if (std::strncmp(line.data(), "at ", 3) == 0) return true;
    if (std::strncmp(line.data(), "end", 3) == 0) return false;
  }
  return false;
}

void Worker::close_input() {
  if (to_ != nullptr) std::fclose(to_);
  to_ = nullptr;
}

std::optional<std::string> Worker::failure() {
  close_input();
  if (!status_) {
    while (heard_of_step()) {
    }
    int status = 0;
    while (::waitpid(process_, &status, 0) == -1 && errno == EINTR) {
    }
    status_ = status;
  }
  if (WIFSIGNALED(*status_)) {
    const int signal = WTERMSIG(*status_);
    return fmt::format("ended by signal {} ({}){}", signal, strsignal(signal),
                       signal == SIGKILL ? ": out of memory? Hint: --one-at-a-time" : "");
  }
  constexpr int kDone = 0, kInterrupted = 130;
  const int code = WEXITSTATUS(*status_);
  if (code == kDone || code == kInterrupted) return std::nullopt;
  const std::string said = last_line(read_file(log_));
  return said.empty() ? fmt::format("exit code {}", code) : said;
}

}  // namespace mezzo::train
