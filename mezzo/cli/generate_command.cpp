#include <cstdio>
#include <memory>

#include <fmt/format.h>

#include "mezzo/cli/commands.h"
#include "mezzo/train/run.h"

namespace mezzo::cli {

void add_generate_command(CLI::App& app, int& exit_code) {
  CLI::App* command = app.add_subcommand("generate", "generate text from a trained model");
  auto options = std::make_shared<train::GenerateOptions>();
  command
      ->add_option("--run", options->run,
                   "a run's folder (its newest checkpoint), or one of its checkpoints")
      ->required();
  command->add_option("--prompt", options->prompt, "the text to continue")->required();
  command->add_option("--tokens", options->tokens, "how many tokens to generate")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command->add_option("--temperature", options->temperature, "0: always the likeliest token")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command->add_option("--top-k", options->top_k, "sample from the k likeliest tokens; 0: from all")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command->add_option("--seed", options->seed, "seed of the sampling")->capture_default_str();
  command->callback([options, &exit_code] {
    fmt::print("{}{}\n", options->prompt, train::generate(*options));
    exit_code = kOk;
  });
}

}  // namespace mezzo::cli
