#include <cstdio>
#include <filesystem>
#include <memory>

#include <fmt/format.h>

#include "mezzo/cli/commands.h"
#include "mezzo/cli/shell_word.h"
#include "mezzo/train/export_model.h"

namespace mezzo::cli {
namespace {

struct ExportOptions {
  std::filesystem::path run, out;
};

void run_export(const ExportOptions& options) {
  const train::Exported exported = train::export_model(options.run, options.out);
  fmt::print("{} parameters in {}, a Hugging Face folder\n", exported.parameters,
             options.out.string());
  if (!exported.has_tokenizer)
    fmt::print("without a tokenizer.json: the model was trained on tokens alone\n");
  fmt::print("fine-tune it: mezzo train --init {} --data TEXT --lr 3e-5\n",
             shell_word(options.out.string()));
}

}  // namespace

void add_export_command(CLI::App& app, int& exit_code) {
  CLI::App* command = app.add_subcommand(
      "export", "write a trained model as a Hugging Face folder, which transformers reads");
  auto options = std::make_shared<ExportOptions>();
  command
      ->add_option("--run", options->run,
                   "a run's folder (its newest checkpoint), or one of its checkpoints")
      ->required();
  command->add_option("--out", options->out, "folder to make; it must be new or empty")->required();
  command->callback([options, &exit_code] {
    run_export(*options);
    exit_code = kOk;
  });
}

}  // namespace mezzo::cli
