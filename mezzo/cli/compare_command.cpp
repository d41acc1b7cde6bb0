#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include <fmt/ranges.h>  // fmt::join

#include "mezzo/amp/precision.h"
#include "mezzo/base/check.h"
#include "mezzo/cli/commands.h"
#include "mezzo/cli/data_progress.h"
#include "mezzo/cli/shell_word.h"
#include "mezzo/cli/threads.h"
#include "mezzo/train/capacity.h"
#include "mezzo/train/compare.h"
#include "mezzo/train/fp8.h"
#include "mezzo/train/run.h"
#include "mezzo/train/run_folder.h"
#include "mezzo/train/run_options.h"

namespace mezzo::cli {
namespace {

// A few minutes a seed for the nano model on two cores, and held-out points enough for a curve.
constexpr const char* kSteps = "200";
constexpr int64_t kEvaluations = 5;

struct CompareOptions {
  train::GivenOptions given;
  std::vector<std::string> modes = {"fp32", "amp-fp16",  "amp-bf16",
                                    "lean", "pure-fp16", "pure-bf16"};
  int64_t seeds = 2;
  bool one_at_a_time = false;
  std::string peers, memory;
};

train::CompareConfig new_comparison(const CompareOptions& options) {
  MEZZO_CHECK_USAGE(options.peers.empty() || std::filesystem::is_regular_file(options.peers),
                    "compare", "--peers must be a file, but {} is none", options.peers);
  train::GivenOptions given = options.given;
  const bool has_file = given.values.contains("config");
  if (!has_file) given.values.try_emplace("steps", kSteps);
  given.values.try_emplace("sample-tokens", "0");
  // So that options which only fp8 takes are not refused for the other modes' sake.
  for (const std::string& mode : options.modes)
    if (precision_mode(mode).fp8_products) given.values["precision"] = mode;
  train::CompareConfig config;
  config.run = train::resolve_config(given);
  if (!has_file && !given.values.contains("eval-every"))
    config.run.eval_every = std::max<int64_t>(1, config.run.steps / kEvaluations);
  config.modes = options.modes;
  config.seeds = options.seeds;
  config.is_interleaved = !options.one_at_a_time;
  // As --data: a resume may start in another folder.
  if (!options.peers.empty())
    config.peers = std::filesystem::absolute(options.peers).lexically_normal();
  if (!options.memory.empty()) config.memory = train::bytes_of(options.memory);
  config.out = config.run.out;
  config.run.out = "";
  return config;
}

train::CompareConfig comparison_of(const CompareOptions& options) {
  const auto resume = options.given.values.find("resume");
  if (resume == options.given.values.end()) return new_comparison(options);
  MEZZO_CHECK_USAGE(options.given.values.size() == 1, "compare",
                    "--resume {} goes on with that comparison as it was begun; no other option can "
                    "be given with it",
                    resume->second);
  return train::load_compare(resume->second);
}

int run_compare(const CompareOptions& options) {
  const std::atomic<bool>& stop = interrupted();
  train::CompareConfig config = comparison_of(options);
  train::check_compare(config);
  use_threads(config.run.threads);
  open_data(config.run);  // packed once, for all runs
  if (config.out.empty())
    config.out = train::make_dated_folder(train::model_name(config.run), "compare");
  const auto say = [](const std::string& line) {
    std::puts(line.c_str());  // unlike fmt::print it does not end the runs if nobody reads
    std::fflush(stdout);
  };
  for (const std::string& mode : config.modes) {
    const std::string note = train::fp8_note(precision_mode(mode), at::Device(config.run.device));
    if (!note.empty()) say(note);
  }
  const train::CompareResult result = train::compare(config, say, stop);
  const report::Comparison& comparison = result.comparison;
  fmt::print("\n{}\n{}\n", report::comparison_text(comparison), comparison.verdict);
  if (result.capacity) fmt::print("{}\n", report::capacity_text(*result.capacity));
  if (!comparison.recommended.empty())
    fmt::print("recommended on this machine: {} ({})\n", comparison.recommended, comparison.reason);
  fmt::print("files in {}\n", config.out.string());
  if (!result.is_complete) {
    fmt::print("interrupted; go on with: mezzo compare --resume {}\n",
               shell_word(config.out.string()));
    return kInterrupted;
  }
  // Divergence is a result; a run that could not be finished is none.
  const bool has_failed =
      std::any_of(comparison.modes.begin(), comparison.modes.end(),
                  [](const report::ModeResult& mode) { return !mode.failures.empty(); });
  return has_failed ? kFailed : kOk;
}

}  // namespace

void add_compare_command(CLI::App& app, int& exit_code) {
  CLI::App* command = app.add_subcommand(
      "compare",
      "train the same model in several precisions, taking turns, and report what each costs and "
      "gains");
  auto options = std::make_shared<CompareOptions>();
  command->add_option("--modes", options->modes, "precision modes to compare")
      ->delimiter(',')
      ->type_name(fmt::format("({})", fmt::join(options->modes, ",")));
  command->add_option("--seeds", options->seeds, "runs of each mode, with seeds that follow --seed")
      ->type_name("(2)");
  command->add_flag(
      "--one-at-a-time", options->one_at_a_time,
      "run one after another instead of taking turns, for models that do not fit into memory "
      "together");
  command
      ->add_option("--peers", options->peers,
                   "JSON file with other programs' step times, to show for comparison")
      ->type_name("(none)");
  command
      ->add_option(
          "--memory", options->memory,
          "a memory budget such as 16GiB: also find the largest batch and the largest preset that "
          "fit into it in each mode")
      ->type_name("(none)");
  train::add_options(*command, options->given);
  for (const char* other : {"--precision", "--diagnose"})  // --modes; no run is diagnosed
    command->remove_option(command->get_option(other));
  command->get_option("--steps")->type_name(fmt::format("({})", kSteps));
  command->get_option("--eval-every")->type_name(fmt::format("(steps / {})", kEvaluations));
  command->get_option("--sample-tokens")->type_name("(0)");
  command->callback([options, &exit_code] { exit_code = run_compare(*options); });
}

}  // namespace mezzo::cli
