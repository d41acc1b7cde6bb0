#include <cstdio>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "mezzo/base/check.h"
#include "mezzo/cli/commands.h"
#include "mezzo/cli/data_progress.h"
#include "mezzo/data/pack.h"
#include "mezzo/data/packed_data.h"
#include "mezzo/data/token_file.h"
#include "mezzo/data/tokenizer.h"
#include "mezzo/data/utf8.h"

namespace mezzo::cli {
namespace {

namespace fs = std::filesystem;

struct PackArguments {
  fs::path corpus;
  fs::path out;
  data::PackOptions options;
};

void print_statistics(const data::PackStatistics& statistics) {
  fmt::print("{} files, {} documents ({} held out), {} bytes\n", statistics.files,
             statistics.documents, statistics.held_out_documents, statistics.bytes);
  fmt::print("{} train tokens, {} held-out tokens, {:.2f} bytes a token\n", statistics.train_tokens,
             statistics.held_out_tokens, statistics.bytes_per_token());
  for (const data::SkippedFile& file : statistics.skipped) {
    fmt::print("skipped {}: {}\n", file.path.string(), file.reason);
  }
}

// A tokenizer that is there is used, whatever size one would be trained with.
void check_vocab_size(const fs::path& tokenizer, int64_t wanted) {
  if (!fs::exists(tokenizer)) return;
  const int64_t size = data::Tokenizer::load(tokenizer).vocab_size();
  MEZZO_CHECK_USAGE(size == wanted, "data pack",
                    "--vocab-size must be that of {}, {}, but is {}. Hint: leave it out, or remove "
                    "that file to have a tokenizer trained",
                    tokenizer.string(), size, wanted);
}

/// In a folder that is made, and taken back if nothing comes to lie in it.
data::PackStatistics pack_into(const fs::path& folder,
                               const std::function<data::PackStatistics()>& pack) {
  std::error_code error;
  const bool is_new = fs::create_directories(folder, error);
  MEZZO_CHECK(!error, "data pack", "cannot make {}: {}", folder.string(), error.message());
  try {
    return pack();
  } catch (...) {
    if (is_new) fs::remove(folder, error);
    throw;
  }
}

void pack(PackArguments& arguments, bool has_vocab_size) {
  const fs::path tokenizer = arguments.out / "tokenizer.json",
                 tokens = arguments.out / data::kPackedTokens;
  if (has_vocab_size) check_vocab_size(tokenizer, arguments.options.vocab_size);
  const data::PackStatistics statistics = pack_into(arguments.out, [&] {
    DataProgress progress;
    arguments.options.progress = std::ref(progress);
    return data::pack(arguments.corpus, tokenizer, tokens, arguments.options);
  });
  print_statistics(statistics);
  fmt::print("{}\n{}\n", tokenizer.string(), tokens.string());
}

void print_split(const char* name, const data::TokenView& view,
                 const std::optional<data::Tokenizer>& tokenizer) {
  constexpr int64_t kShown = 16;
  std::vector<int64_t> first(static_cast<size_t>(std::min(kShown, view.size())));
  view.read(0, first);
  fmt::print("{:<10} {} tokens, beginning {} ...\n", name, view.size(), fmt::join(first, " "));
  if (!tokenizer.has_value()) return;
  fmt::print("           {}\n", data::to_well_formed_utf8(tokenizer->decode(
                                    std::vector<int32_t>(first.begin(), first.end()))));
}

void show(const fs::path& path, int64_t vocab_size) {
  const data::TokenFile file = data::TokenFile::open(path, {.vocab_size = vocab_size});
  const std::optional<data::Tokenizer> tokenizer = data::tokenizer_beside(path, file);
  fmt::print("vocabulary {} tokens", file.vocab_size());
  if (file.vocab_hash().has_value()) fmt::print(", hash {:016x}", *file.vocab_hash());
  fmt::print("\n");
  print_split("train", file.split(data::Split::train), tokenizer);
  print_split("held out", file.split(data::Split::held_out), tokenizer);
}

void add_pack(CLI::App& data, int& exit_code) {
  CLI::App* command =
      data.add_subcommand("pack", "turn text into a token file, with a tokenizer trained on it");
  auto arguments = std::make_shared<PackArguments>();
  command->add_option("corpus", arguments->corpus, "a text file, or a folder of them")->required();
  command
      ->add_option(
          "--out", arguments->out,
          "folder for data.tokens and tokenizer.json (which is used if it is already there)")
      ->required();
  CLI::Option* vocab_size = command
                                ->add_option("--vocab-size", arguments->options.vocab_size,
                                             "vocabulary size of the tokenizer to train")
                                ->capture_default_str();
  command
      ->add_option("--extension", arguments->options.corpus.extensions,
                   "take only files with this extension, such as .py; may be given several times")
      ->allow_extra_args(false);
  command
      ->add_option("--held-out", arguments->options.held_out_fraction,
                   "fraction of the text that training never sees")
      ->capture_default_str();
  command->callback([arguments, vocab_size, &exit_code] {
    pack(*arguments, vocab_size->count() > 0);
    exit_code = kOk;
  });
}

void add_show(CLI::App& data, int& exit_code) {
  CLI::App* command =
      data.add_subcommand("show", "show what a token file holds: Mezzo's, llm.c's or nanoGPT's");
  auto path = std::make_shared<fs::path>();
  auto vocab_size = std::make_shared<int64_t>(0);
  command->add_option("file", *path, "a token file, or a folder with a train and val pair")
      ->required();
  command->add_option("--vocab-size", *vocab_size,
                      "vocabulary size, for raw files, which do not state it");
  command->callback([path, vocab_size, &exit_code] {
    show(*path, *vocab_size);
    exit_code = kOk;
  });
}

}  // namespace

void add_data_command(CLI::App& app, int& exit_code) {
  CLI::App* data =
      app.add_subcommand("data", "pack text into a token file; show what a token file holds");
  data->require_subcommand(1);
  add_pack(*data, exit_code);
  add_show(*data, exit_code);
}

}  // namespace mezzo::cli
