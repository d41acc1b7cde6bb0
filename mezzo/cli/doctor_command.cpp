#include <cstdio>
#include <iostream>
#include <memory>

#include <fmt/format.h>
#include <unistd.h>

#include <ATen/Parallel.h>

#include "mezzo/cli/commands.h"
#include "mezzo/cli/data_progress.h"
#include "mezzo/report/progress.h"
#include "mezzo/train/failed_step.h"
#include "mezzo/train/run.h"

namespace mezzo::cli {
namespace {

// Without --steps: where a run that goes wrong at all has mostly done so.
constexpr const char* kSteps = "200";

report::ProgressOptions progress_options() {
  report::ProgressOptions options;
  options.terminal = report::terminal_at(STDERR_FILENO);
  options.width = [] { return report::terminal_width(STDERR_FILENO); };
  return options;
}

int run_doctor(train::GivenOptions given, bool as_json) {
  if (!given.values.contains("config") && !given.values.contains("resume"))
    given.values.try_emplace("steps", kSteps);
  const std::atomic<bool>& stop = interrupted();
  const train::RunConfig config = train::resolve_config(given);
  if (config.threads > 0) at::set_num_threads(static_cast<int>(config.threads));
  DataProgress data_progress;
  const train::RunData data = train::open_data(config, std::ref(data_progress));
  data_progress.finish();
  report::Sinks sinks;
  sinks.add(std::make_unique<report::Progress>(std::cerr, progress_options()));
  const numerics::Diagnosis diagnosis = train::examine(config, data, sinks, stop);
  std::cerr.flush();
  const std::string text = as_json ? train::diagnosis_json(diagnosis) : to_text(diagnosis);
  fmt::print("{}", text);
  return diagnosis.is_healthy() ? kOk : kFailed;
}

}  // namespace

void add_doctor_command(CLI::App& app, int& exit_code) {
  CLI::App* command = app.add_subcommand(
      "doctor",
      "train until a step is not finite, and say which op made it so and what cures it; with "
      "--resume RUN from that run's last checkpoint on, whose files stay as they are");
  auto given = std::make_shared<train::GivenOptions>();
  train::add_options(*command, *given);
  auto as_json = std::make_shared<bool>(false);
  command->add_flag("--json", *as_json, "the diagnosis as JSON (docs/doctor.md)");
  command->callback([given, as_json, &exit_code] { exit_code = run_doctor(*given, *as_json); });
}

}  // namespace mezzo::cli
