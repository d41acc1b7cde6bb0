#include <cstdio>
#include <exception>
#include <filesystem>
#include <memory>
#include <new>
#include <string>

#include <CLI/CLI.hpp>
#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <unistd.h>

#include <c10/util/Exception.h>

#include "mezzo/base/check.h"
#include "mezzo/base/cpu_allocator.h"
#include "mezzo/cli/commands.h"
#include "mezzo/cli/wrapped_help.h"
#include "mezzo/cli/wrong_words.h"
#include "mezzo/kernels/cpu_kernels.h"

namespace mezzo::cli {
namespace {

constexpr const char* kDescription =
    "Mezzo: mixed-precision training of language models.\n\n"
    "  mezzo train                        a small GPT on the Python sources at hand\n"
    "  mezzo train --precision amp-fp16 --data book.txt\n"
    "  mezzo train --init FOLDER          fine-tune a model of yours, or of Hugging Face's\n"
    "  mezzo compare                      what each precision costs and gains, here\n"
    "  mezzo doctor --precision pure-fp16  where a NaN was born, and what cures it\n"
    "  mezzo generate --run runs/my-run --prompt 'def '\n"
    "  mezzo ops --diff pytorch-cuda      which op runs in which dtype\n"
    "  mezzo info                         which precisions are fast here, and why\n";

// The next file to be opened would take the number of a stream that is closed, and with it the text
// meant for that stream.
void open_closed_streams() {
  for (const int stream : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO})
    if (::fcntl(stream, F_GETFD) == -1) ::open("/dev/null", O_RDWR);
}

int run(int argc, char** argv) {
  CLI::App app(kDescription, "mezzo");
  app.formatter(std::make_shared<WrappedHelp>());  // first: the commands take it over
  app.require_subcommand(1);
  app.set_version_flag("--version", std::string("mezzo ") + MEZZO_VERSION);
  int exit_code = kOk;
  add_train_command(app, exit_code);
  add_compare_command(app, exit_code);
  add_doctor_command(app, exit_code);
  add_generate_command(app, exit_code);
  add_export_command(app, exit_code);
  add_data_command(app, exit_code);
  add_ops_command(app, exit_code);
  add_info_command(app, exit_code);
  add_bench_command(app, exit_code);
  check_commands(app, {argv + 1, argv + argc});
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& help_or_version) {
    return app.exit(help_or_version);
  } catch (const CLI::ParseError& error) {
    explain_error(app, error);
  }
  return exit_code;
}

int report_failure(const std::string& what, int exit_code) {
  std::fprintf(stderr, "mezzo: %s\n", what.c_str());  // fmt::print would throw where stderr is gone
  return exit_code;
}

constexpr const char* kLessMemory = "Hint: a smaller --model or --batch, or --recompute layer";

// libtorch's words, without the stack that would push them off the screen.
std::string message_of(const c10::Error& error) {
  const std::string text = error.what_without_backtrace();
  const bool is_about_memory = text.find("DefaultCPUAllocator") != std::string::npos ||
                               text.find("out of memory") != std::string::npos;
  return is_about_memory ? fmt::format("{}. {}", text, kLessMemory) : text;
}

// Of a pipe. errno may be another's by the time one asks.
bool output_has_no_reader() {
  pollfd output{.fd = STDOUT_FILENO, .events = POLLOUT, .revents = 0};
  return ::poll(&output, 1, 0) == 1 && (output.revents & POLLERR) != 0;
}

// What was printed may still wait in the buffer, for a disk that is full or a pipe that is closed.
int answer_with(int exit_code) {
  const bool is_written = std::fflush(stdout) == 0 && std::ferror(stdout) == 0;
  if (is_written) return exit_code;
  if (output_has_no_reader())
    return report_failure("the rest was not shown: the reader of the output has closed it",
                          exit_code);
  return report_failure("the output could not be written whole: is the disk full?",
                        exit_code == kOk ? kFailed : exit_code);
}

}  // namespace
}  // namespace mezzo::cli

int main(int argc, char** argv) {
  mezzo::cli::open_closed_streams();
  try {
    const mezzo::CpuAllocator allocator;
    const mezzo::kernels::CpuKernels kernels;
    return mezzo::cli::answer_with(mezzo::cli::run(argc, argv));
  } catch (const mezzo::cli::Interrupted&) {
    return mezzo::cli::report_failure("interrupted", mezzo::cli::kInterrupted);
  } catch (const mezzo::UsageError& error) {
    return mezzo::cli::report_failure(error.what(), mezzo::cli::kWrongUsage);
  } catch (const std::filesystem::filesystem_error& error) {
    return mezzo::cli::report_failure(
        fmt::format("{}: {}", error.path1().string(), error.code().message()), mezzo::cli::kFailed);
  } catch (const c10::Error& error) {
    return mezzo::cli::report_failure(mezzo::cli::message_of(error), mezzo::cli::kFailed);
  } catch (const std::bad_alloc&) {
    return mezzo::cli::report_failure(fmt::format("out of memory. {}", mezzo::cli::kLessMemory),
                                      mezzo::cli::kFailed);
  } catch (const std::exception& error) {
    return mezzo::cli::report_failure(error.what(), mezzo::cli::kFailed);
  }
}
