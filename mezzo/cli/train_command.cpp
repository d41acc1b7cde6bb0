#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <unistd.h>

#include "mezzo/amp/precision.h"
#include "mezzo/base/error.h"
#include "mezzo/cli/commands.h"
#include "mezzo/cli/data_progress.h"
#include "mezzo/cli/shell_word.h"
#include "mezzo/cli/threads.h"
#include "mezzo/report/pacer.h"
#include "mezzo/report/progress.h"
#include "mezzo/train/checkpoint.h"
#include "mezzo/train/run.h"
#include "mezzo/train/run_config.h"
#include "mezzo/train/run_options.h"

namespace mezzo::cli {
namespace {

std::unique_ptr<report::Progress> terminal_progress() {
  report::ProgressOptions options;
  options.terminal = report::terminal_at(STDOUT_FILENO);
  options.width = [] { return report::terminal_width(STDOUT_FILENO); };
  return std::make_unique<report::Progress>(std::cout, options);
}

std::string last_good_checkpoint(const std::string& run, int64_t steps) {
  const std::vector<std::filesystem::path> good = train::list_checkpoints(run, steps);
  if (good.empty())
    return fmt::format(
        "that was before its first checkpoint (--checkpoint-every sets how often); begin anew "
        "with: mezzo train --config {}/config.toml --out NEW",
        run);
  return fmt::format("the last good checkpoint is {}", good.back().string());
}

// The folder stands for its newest checkpoint. A run that went back, and has written none since,
// goes on from an older one.
std::string place_to_go_on_from(const std::string& run, int64_t steps) {
  const std::vector<std::filesystem::path> own = train::list_checkpoints(run, steps);
  const bool is_newest = own.size() == train::list_checkpoints(run).size();
  return own.empty() || is_newest ? run : own.back().string();
}

// Nothing that the run has already.
std::string what_to_try(const train::RunConfig& config) {
  const PrecisionMode& mode = precision_mode(config.precision);
  const bool is_narrow =
      mode.weights != at::kFloat || mode.compute() == at::kHalf || mode.fp8_products;
  std::string advice = "a lower --lr, a longer --warmup";
  if (config.clip == 0 && !config.release_gradients) advice += ", --clip 1";
  if (is_narrow) advice += ", --precision amp-bf16";
  if (mode.compute() == at::kHalf && (config.static_loss_scale() || !config.scales_loss()))
    advice += ", --loss-scale dynamic";
  return advice;
}

int answer_to(const report::Summary& summary, const train::RunConfig& config, bool has_tokenizer) {
  switch (summary.status) {
    case report::Status::kDone:
      fmt::print("files in {}\n", config.out);
      if (has_tokenizer)
        fmt::print("generate text: mezzo generate --run {} --prompt {}\n", shell_word(config.out),
                   config.data.empty() ? "'def '" : "'The '");  // a beginning that suits the text
      return kOk;
    case report::Status::kInterrupted:
      fmt::print("interrupted after step {}; go on with: mezzo train --resume {}\n", summary.steps,
                 shell_word(place_to_go_on_from(config.out, summary.steps)));
      return kInterrupted;
    case report::Status::kDiverged:
      fmt::print("diverged at step {}; {}\nwhat to try: {}\n",
                 summary.diverged_at.value_or(summary.steps),
                 last_good_checkpoint(config.out, summary.steps), what_to_try(config));
      return kFailed;
  }
  return kFailed;
}

// The end of an error that is about a full disk; "" for another.
std::string way_out_of(const std::string& error, const train::RunConfig& config) {
  const bool is_full = std::ranges::any_of(std::array{ENOSPC, EDQUOT, EFBIG}, [&](int code) {
    return error.ends_with(std::strerror(code));
  });
  if (!is_full || config.out.empty()) return "";
  const std::vector<std::filesystem::path> good = train::list_checkpoints(config.out);
  if (good.empty()) return ". Hint: make room, then begin anew: the run has no checkpoint yet";
  return fmt::format(
      ". Hint: make room, then go on from the last good checkpoint, {}, with: mezzo train --resume "
      "{}",
      good.back().filename().string(), shell_word(config.out));
}

// Whose run is paced has it stopped by hanging up.
std::unique_ptr<report::Sink> pacer() {
  return std::make_unique<report::Pacer>(std::cin, std::cout, interrupt);
}

int run_training(const train::GivenOptions& given, bool is_paced) {
  const std::atomic<bool>& stop = interrupted();
  train::RunConfig config = train::resolve_config(given);
  use_threads(config.threads);
  const train::RunData data = open_data(config);
  report::Sinks sinks;
  if (is_paced) {
    sinks.add(pacer());
  } else {
    sinks.add(terminal_progress());
  }
  try {
    const report::Summary summary = train::train(config, data, sinks, stop);
    std::cout.flush();
    return answer_to(summary, config, data.tokenizer.has_value());
  } catch (const Error& error) {
    const std::string way_out = way_out_of(error.what(), config);
    if (way_out.empty()) throw;
    throw Error(error.what() + way_out);
  }
}

}  // namespace

void add_train_command(CLI::App& app, int& exit_code) {
  CLI::App* command = app.add_subcommand("train",
                                         "train a language model; without options, a small GPT on "
                                         "the Python sources at hand in a few minutes");
  auto given = std::make_shared<train::GivenOptions>();
  train::add_options(*command, *given);
  auto is_paced = std::make_shared<bool>(false);
  command->add_flag("--paced", *is_paced)->group("");  // for mezzo compare, see report/pacer.h
  command->callback([given, is_paced, &exit_code] { exit_code = run_training(*given, *is_paced); });
}

}  // namespace mezzo::cli
