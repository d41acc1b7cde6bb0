#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <iostream>
#include <memory>
#include <optional>

#include <fmt/format.h>
#include <unistd.h>

#include "mezzo/base/atomic_file.h"
#include "mezzo/base/check.h"
#include "mezzo/cli/commands.h"
#include "mezzo/cli/data_progress.h"
#include "mezzo/cli/shell_word.h"
#include "mezzo/cli/threads.h"
#include "mezzo/report/progress.h"
#include "mezzo/train/diagnosis_files.h"
#include "mezzo/train/fit.h"
#include "mezzo/train/run.h"
#include "mezzo/train/run_options.h"
#include "mezzo/train/saved_step.h"

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

struct DoctorOptions {
  train::GivenOptions given;
  std::string step;    // a folder; empty: train until one fails
  std::string fit_to;  // a file; empty: look for what is wrong
  bool as_json = false;
  std::string html;
};

// The file comes after minutes of training; that it cannot be written is known before.
void check_can_be_written(const std::string& option, const std::filesystem::path& file) {
  if (file.empty()) return;
  const std::filesystem::path folder = file.has_parent_path() ? file.parent_path() : ".";
  std::error_code error;
  MEZZO_CHECK_USAGE(!std::filesystem::is_directory(file, error), "doctor",
                    "--{} must be a file, but {} is a folder", option, file.string());
  MEZZO_CHECK_USAGE(::access(folder.c_str(), W_OK) == 0, "doctor",
                    "--{} must be a file that can be written, but is {}, in whose folder none can: "
                    "{}",
                    option, file.string(), std::strerror(errno));
}

train::ExaminedStep of_saved_step(const DoctorOptions& options) {
  const train::SavedStep step = train::load_step(options.step);
  const train::RunConfig config = train::config_for(step, options.given);
  use_threads(config.threads);
  return train::examine(step, config);
}

/// What a training run works on, with its progress on the terminal.
struct Training {
  explicit Training(train::GivenOptions given) {
    interrupted();
    if (!given.values.contains("config") && !given.values.contains("resume"))
      given.values.try_emplace("steps", kSteps);
    config = train::resolve_config(given);
    use_threads(config.threads);
    data.emplace(open_data(config));  // the tokenizer of a run that goes on is in its folder
    config.out = "";                  // nothing is written there,
    config.diagnose = 0;              // nor is a step saved
    sinks.add(std::make_unique<report::Progress>(std::cerr, progress_options()));
  }
  train::RunConfig config;
  std::optional<train::RunData> data;
  report::Sinks sinks;
};

train::ExaminedStep of_training(const DoctorOptions& options) {
  Training training(options.given);
  const train::ExaminedStep step =
      train::examine(training.config, *training.data, training.sinks, interrupted());
  std::cerr.flush();
  // It has looked into the step at which it was stopped: well, but that says nothing of the rest.
  if (interrupted() && step.diagnosis.is_healthy()) throw Interrupted();
  return step;
}

int fit(const DoctorOptions& options) {
  Training training(options.given);
  const train::Fit fit =
      train::fit_policy(training.config, *training.data, training.sinks, interrupted());
  std::cerr.flush();
  if (interrupted()) throw Interrupted();
  fmt::print("{}", train::to_text(fit, training.config));
  write_file_atomically(options.fit_to, train::to_toml(fit, training.config));
  fmt::print("written to {}; mezzo train --config {} takes it\n", options.fit_to,
             shell_word(options.fit_to));
  return fit.is_verified ? kOk : kFailed;
}

// Which steps it is that nothing was found in.
std::string looked_into(const train::ExaminedStep& step) {
  if (step.first == 0 || step.first == step.number)
    return fmt::format("looked into step {}\n", step.number);
  return fmt::format("looked into step {}, after steps {} to {} went well\n", step.number,
                     step.first, step.number - 1);
}

int run_doctor(const DoctorOptions& options) {
  check_can_be_written("fit", options.fit_to);
  check_can_be_written("html", options.html);
  if (!options.fit_to.empty()) return fit(options);
  const train::ExaminedStep step =
      options.step.empty() ? of_training(options) : of_saved_step(options);
  const numerics::Diagnosis& diagnosis = step.diagnosis;
  fmt::print("{}", options.as_json ? train::diagnosis_json(diagnosis) : to_text(diagnosis));
  if (diagnosis.is_healthy() && !options.as_json) fmt::print("{}", looked_into(step));
  if (!options.html.empty()) write_file_atomically(options.html, train::diagnosis_page(step));
  return diagnosis.is_healthy() ? kOk : kFailed;
}

}  // namespace

void add_doctor_command(CLI::App& app, int& exit_code) {
  CLI::App* command = app.add_subcommand(
      "doctor",
      "train until a step is not finite, then name the op that caused it and a change proved to "
      "cure it; --resume RUN starts from that run's last checkpoint and leaves its files alone; "
      "STEP diagnoses a step that mezzo train saved in RUN/failures/step-N");
  auto options = std::make_shared<DoctorOptions>();
  CLI::Option* step =
      command
          ->add_option("STEP", options->step,
                       "folder of a saved step to run again, optionally with another --precision, "
                       "--loss-scale or --cast-rules")
          ->type_name("");
  train::add_options(*command, options->given);
  command->get_option("--steps")->type_name(fmt::format("({})", kSteps));
  // Taken, so that the words of a mezzo train will do, but of no effect here.
  for (const char* idle : {"--out", "--checkpoint-every", "--keep-checkpoints", "--eval-every",
                           "--eval-batches", "--sample-tokens", "--diagnose"})
    command->get_option(idle)->group("");
  CLI::Option* json =
      command->add_flag("--json", options->as_json, "the diagnosis as JSON (docs/doctor.md)");
  CLI::Option* html =
      command->add_option("--html", options->html, "file to write the diagnosis to, as a page")
          ->type_name("(none)");
  command
      ->add_option("--fit", options->fit_to,
                   "instead, fit a cast policy to the model (the lowest type that holds each op's "
                   "range, verified by training) and write it to this TOML file")
      ->type_name("(none)")
      ->excludes(step)
      ->excludes(json)
      ->excludes(html);
  command->callback([options, &exit_code] { exit_code = run_doctor(*options); });
}

}  // namespace mezzo::cli
