#pragma once

#include <atomic>

#include <CLI/CLI.hpp>

namespace mezzo::cli {

/// What a process answers with. An interrupted run has left a checkpoint.
enum ExitCode { kOk = 0, kFailed = 1, kWrongUsage = 2, kInterrupted = 130 };

// Each adds one command to `app`; when the command line names it, it runs, and sets `exit_code`.
void add_train_command(CLI::App& app, int& exit_code);
void add_compare_command(CLI::App& app, int& exit_code);
void add_doctor_command(CLI::App& app, int& exit_code);
void add_generate_command(CLI::App& app, int& exit_code);
void add_export_command(CLI::App& app, int& exit_code);
void add_data_command(CLI::App& app, int& exit_code);
void add_ops_command(CLI::App& app, int& exit_code);
void add_info_command(CLI::App& app, int& exit_code);
void add_bench_command(CLI::App& app, int& exit_code);

/// Thrown where a command cannot go on after Ctrl-C, and leaves nothing.
struct Interrupted {};

/// True from the first Ctrl-C (SIGINT), SIGTERM or hang-up (SIGHUP, unless it was ignored) on; a
/// second one ends the process at once, as if nobody listened. From the first call on, which must
/// come before a command computes anything, a closed pipe is an error of whoever writes to it, not
/// the process's end.
const std::atomic<bool>& interrupted();
/// Makes it true without a signal, which might be the second.
void interrupt();

}  // namespace mezzo::cli
