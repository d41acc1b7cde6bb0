#include <cstdio>
#include <memory>
#include <string_view>

#include "mezzo/cli/commands.h"
#include "mezzo/train/run.h"

namespace mezzo::cli {

void add_generate_command(CLI::App& app, int& exit_code) {
  CLI::App* command = app.add_subcommand("generate", "generate text from a trained model");
  auto options = std::make_shared<train::GenerateOptions>();
  command
      ->add_option(
          "--run", options->run,
          "a run's folder (its newest checkpoint), one of its checkpoints, or a Hugging Face "
          "folder of a GPT-2 or a Llama")
      ->required();
  command->add_option("--prompt", options->prompt, "the text to continue")->required();
  command->add_option("--tokens", options->tokens, "how many tokens to generate")
      ->capture_default_str();
  command->add_option("--temperature", options->temperature, "0: always the likeliest token")
      ->capture_default_str();
  command->add_option("--top-k", options->top_k, "sample from the k likeliest tokens; 0: from all")
      ->capture_default_str();
  command->add_option("--seed", options->seed, "seed of the sampling")->capture_default_str();
  command->callback([options, &exit_code] {
    const std::atomic<bool>& stop = interrupted();
    train::generate(*options, [&stop](std::string_view text) {
      std::fwrite(text.data(), 1, text.size(), stdout);
      return std::fflush(stdout) == 0 && !stop;
    });
    std::fputc('\n', stdout);
    exit_code = stop ? kInterrupted : kOk;
  });
}

}  // namespace mezzo::cli
