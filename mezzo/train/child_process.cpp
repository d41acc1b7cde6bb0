#include "mezzo/train/child_process.h"

#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include "mezzo/base/check.h"

namespace mezzo::train {
namespace {

struct Pipe {
  Pipe() { MEZZO_CHECK(::pipe2(ends.data(), O_CLOEXEC) == 0, "compare", "{}", strerror(errno)); }
  std::array<int, 2> ends{};  // to read from, to write to
};

}  // namespace

ChildProcess::ChildProcess(const std::vector<std::string>& arguments,
                           const std::filesystem::path& errors, Group group) {
  std::signal(SIGPIPE, SIG_IGN);  // one that has died is seen at its output; a child inherits this
  Pipe input, output;
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, input.ends[0], STDIN_FILENO);
  posix_spawn_file_actions_adddup2(&actions, output.ends[1], STDOUT_FILENO);
  if (errors.empty()) {
    posix_spawn_file_actions_adddup2(&actions, output.ends[1], STDERR_FILENO);
  } else {
    posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, errors.c_str(),
                                     O_WRONLY | O_CREAT | O_APPEND, 0644);
  }
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  // Its own thread for signals blocks them anew; whoever has none is to die of them.
  sigset_t none;
  sigemptyset(&none);
  posix_spawnattr_setsigmask(&attributes, &none);
  const short own_group = group == Group::kOwn ? POSIX_SPAWN_SETPGROUP : 0;
  posix_spawnattr_setflags(&attributes, static_cast<short>(POSIX_SPAWN_SETSIGMASK | own_group));

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
  if (error != 0) {
    ::close(input.ends[1]);
    ::close(output.ends[0]);
    detail::fail<Error>("compare", "a process of its own cannot be started: {}", strerror(error));
  }
  to_ = ::fdopen(input.ends[1], "w");
  from_ = ::fdopen(output.ends[0], "r");
}

ChildProcess::~ChildProcess() {
  wait();
  std::fclose(from_);
}

void ChildProcess::write(const std::string& text) {
  std::fputs(text.c_str(), to_);
  std::fflush(to_);
}

std::optional<std::string> ChildProcess::read_line() {
  std::string line;
  int next = 0;
  while ((next = std::fgetc(from_)) != EOF && next != '\n') line.push_back(static_cast<char>(next));
  if (next == EOF && line.empty()) return std::nullopt;
  return line;
}

int ChildProcess::wait() {
  if (status_) return *status_;
  std::fclose(to_);
  while (read_line()) {
  }
  int status = 0;
  while (::waitpid(process_, &status, 0) == -1 && errno == EINTR) {
  }
  return status_.emplace(status);
}

}  // namespace mezzo::train
