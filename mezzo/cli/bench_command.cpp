#include <cstdio>
#include <memory>
#include <string>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <ATen/Parallel.h>

#include "mezzo/base/memory.h"
#include "mezzo/cli/commands.h"
#include "mezzo/cli/threads.h"
#include "mezzo/train/bench_step.h"
#include "mezzo/train/capacity.h"
#include "mezzo/train/run_options.h"

namespace mezzo::cli {
namespace {

struct BenchOptions {
  train::StepBenchOptions step;
  std::string memory;
  int64_t threads = 0;
  bool is_json = false;
};

void print(const BenchOptions& options, const train::StepBenchResult& result) {
  if (options.is_json) {
    const nlohmann::ordered_json json = {
        {"model", options.step.model},
        {"precision", options.step.precision},
        {"fp8_scaling", options.step.fp8_scaling},
        {"releases_gradients", options.step.releases_gradients},
        {"device", options.step.device},
        {"accumulate", options.step.accumulate},
        {"batch", result.batch},
        {"length", result.length},
        {"threads", at::get_num_threads()},
        {"min_ms", result.min_ms},
        {"median_ms", result.median_ms},
        {"tokens_per_s", result.tokens_per_s},
        {"peak_tensor_bytes", result.peak_tensor_bytes},
        {"peak_rss_bytes", result.peak_rss_bytes},
        {"note", result.note},
        {"fits", true},
    };
    fmt::print("{}\n", json.dump());
    return;
  }
  fmt::print(
      "mezzo bench step --model {} --precision {} --threads {} | {} x {} | {:.1f} ms ({:.2f}x "
      "best) | "
      "{:.0f} tok/s | tensors {:.0f} MiB, process {:.0f} MiB\n",
      options.step.model, options.step.precision, at::get_num_threads(), result.batch,
      result.length, result.median_ms, result.median_ms / result.min_ms, result.tokens_per_s,
      static_cast<double>(result.peak_tensor_bytes) / 0x1p20,
      static_cast<double>(result.peak_rss_bytes) / 0x1p20);
  if (!result.note.empty()) fmt::print("{}\n", result.note);
}

// Which takes the same words.
void add_option_of_train(CLI::App& app, const std::string& name, std::string& value) {
  const train::Option& option = *train::find_option(name);
  app.add_option("--" + name, value, option.help)
      ->check(CLI::IsMember(option.check.choices))
      ->capture_default_str();
}

}  // namespace

void add_bench_command(CLI::App& app, int& exit_code) {
  CLI::App* bench = app.add_subcommand("bench", "time parts of Mezzo on this machine");
  bench->require_subcommand(1);
  CLI::App* step = bench->add_subcommand(
      "step", "time whole training steps (forward, backward, clip, optimizer) on random tokens");
  auto options = std::make_shared<BenchOptions>();
  step->add_option("--model", options->step.model,
                   "nano (8 x 256 tokens), mini (16 x 256), gpt2 (2 x 512), llama-nano (8 x 256), "
                   "smollm-135m (2 x 512), or another preset (1 x its context)")
      ->capture_default_str();
  add_option_of_train(*step, "precision", options->step.precision);
  add_option_of_train(*step, "fp8-scaling", options->step.fp8_scaling);
  add_option_of_train(*step, "recompute", options->step.recompute);
  step->add_flag(
      "--release-gradients", options->step.releases_gradients,
      "update each parameter during the backward pass and free its gradient; no clipping");
  add_option_of_train(*step, "device", options->step.device);
  step->add_option("--accumulate", options->step.accumulate, "batches per step")
      ->capture_default_str();
  step->add_option("--length", options->step.length,
                   "tokens per sequence, instead of the preset's above");
  step->add_option("--batch", options->step.batch,
                   "sequences per batch, instead of the preset's above");
  step->add_option("--memory", options->memory,
                   "memory budget for tensors, such as 16GiB; a step that needs more is reported "
                   "as not fitting, not as an error");
  step->add_option("--steps", options->step.steps, "steps to time, after 3 of warm-up")
      ->capture_default_str();
  step->add_option("--threads", options->threads, "CPU threads; 0: all")->capture_default_str();
  step->add_flag("--json", options->is_json, "print one JSON object instead of a line");
  step->callback([options, &exit_code] {
    use_threads(options->threads);
    if (!options->memory.empty()) options->step.budget = train::bytes_of(options->memory);
    try {
      print(*options, train::bench_step(options->step));
    } catch (const BudgetExceeded& error) {
      fmt::print("{}\n", options->is_json ? R"({"fits": false})" : error.what());
    }
    exit_code = kOk;
  });
}

}  // namespace mezzo::cli
