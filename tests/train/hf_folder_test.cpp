#include "mezzo/train/hf_folder.h"

#include <nlohmann/json.hpp>

#include "mezzo/base/check.h"
#include "mezzo/base/safetensors.h"
#include "mezzo/data/train_tokenizer.h"
#include "mezzo/models/gpt2.h"
#include "mezzo/models/hf_checkpoint.h"
#include "mezzo/models/llama.h"
#include "tests/models/hf_tensors.h"
#include "tests/models/llama_tiny.h"
#include "tests/testing.h"

namespace mezzo::train {
namespace {

namespace fs = std::filesystem;
using mezzo::testing::read_file;
using mezzo::testing::TempDir;
using mezzo::testing::write_file;
using models::expect_same_bits;

const models::ModelConfig kShape{
    .layers = 1, .heads = 2, .width = 16, .context = 8, .vocab_size = 300};

TensorMap some_weights() { return models::weights_of(models::GPT2(kShape, /*seed=*/5)); }

/// A folder whose tensors are in two files, each called as `name_of` says of it.
fs::path sharded(const TempDir& dir, const std::string& first, const std::string& second) {
  const TensorMap tensors = models::to_hf_weights(some_weights(), kShape);
  SafeTensors shards[2];
  nlohmann::json map;
  for (const auto& [name, tensor] : tensors) {
    const bool is_first = name.find("attn") != name.npos;
    shards[is_first ? 0 : 1].tensors[name] = tensor;
    map[name] = is_first ? first : second;
  }
  fs::create_directories(dir / "sharded");
  write_file(dir / "sharded/config.json", models::to_hf_config(kShape, std::nullopt));
  save_safetensors(dir / "sharded/a.safetensors", shards[0]);
  save_safetensors(dir / "sharded/b.safetensors", shards[1]);
  write_file(dir / "sharded/model.safetensors.index.json",
             nlohmann::json{{"metadata", {{"total_size", 1}}}, {"weight_map", map}}.dump());
  return dir / "sharded";
}

TEST(HfFolder, WhatIsWrittenIsReadWithTheSameBits) {
  const TempDir dir;
  fs::create_directory(dir / "out");  // an empty one serves
  save_hf_folder(dir / "out", kShape, some_weights(), std::nullopt);
  EXPECT_TRUE(is_hf_folder(dir / "out"));
  EXPECT_EQ(hf_shape(dir / "out").vocab_size, 300);
  expect_same_bits(load_hf_weights(dir / "out"), some_weights());
  EXPECT_EQ(load_safetensors(dir / "out/model.safetensors").metadata.at("format"), "pt");
  EXPECT_FALSE(fs::exists(dir / "out/tokenizer.json"));
}

TEST(HfFolder, ALlamaIsReadAsItIsWrittenTiedOrNot) {
  for (const bool is_tied : {true, false}) {
    const TempDir dir;
    const models::ModelConfig shape = models::tiny_llama_config(is_tied);
    const TensorMap weights = models::weights_of(models::Llama(shape, /*seed=*/5));
    save_hf_folder(dir / "out", shape, weights, std::nullopt);
    const models::ModelConfig read = hf_shape(dir / "out");
    EXPECT_EQ(read.family, models::Family::kLlama);
    EXPECT_EQ(read.kv_heads, 2);
    EXPECT_EQ(read.tied, is_tied);
    expect_same_bits(load_hf_weights(dir / "out"), weights);
  }
}

TEST(HfFolder, TheTokenizerIsCopiedAndItsEndOfTextIsNamed) {
  const TempDir dir;
  const std::string text = "one two three";
  const auto tokenizer = data::train_tokenizer(std::span(&text, 1), {.vocab_size = 258});
  save_hf_folder(dir / "out", kShape, some_weights(), tokenizer);
  EXPECT_EQ(data::Tokenizer::load(dir / "out/tokenizer.json").hash(), tokenizer.hash());
  const auto json = nlohmann::json::parse(read_file(dir / "out/config.json"));
  EXPECT_EQ(json.at("eos_token_id"), tokenizer.end_of_text().value());
}

TEST(HfFolder, AFailureLeavesNothing) {
  const TempDir dir;
  TensorMap weights = some_weights();
  weights.erase("wte.weight");
  EXPECT_THROW_WITH(save_hf_folder(dir / "out", kShape, weights, std::nullopt), "wte.weight");
  fs::create_directory(dir / "full");
  write_file(dir / "full/file", "");
  EXPECT_THROW_WITH(save_hf_folder(dir / "full", kShape, some_weights(), std::nullopt), "full");
  EXPECT_EQ(std::distance(fs::directory_iterator(dir.path()), {}), 1);
}

TEST(HfFolder, WeightsMayBeInSeveralFiles) {
  const TempDir dir;
  expect_same_bits(load_hf_weights(sharded(dir, "a.safetensors", "b.safetensors")), some_weights());
}

TEST(HfFolder, AnIndexThatLeadsElsewhereIsRefused) {
  for (const char* wrong : {"../a.safetensors", "/etc/a.safetensors", "", "..", "config.json"}) {
    const TempDir dir;
    EXPECT_THROW_WITH(load_hf_weights(sharded(dir, wrong, "b.safetensors")),
                      "must be a .safetensors beside this");
  }
  const TempDir dir;
  EXPECT_THROW_WITH(load_hf_weights(sharded(dir, "gone.safetensors", "b.safetensors")),
                    "gone.safetensors");
  write_file(dir / "sharded/model.safetensors.index.json", "{}");
  EXPECT_THROW_WITH(load_hf_weights(dir / "sharded"), "with a weight_map");
}

TEST(HfFolder, ATensorInTwoFilesIsNamed) {
  const TempDir dir;
  const fs::path folder = sharded(dir, "a.safetensors", "b.safetensors");
  SafeTensors first = load_safetensors(folder / "a.safetensors");
  first.tensors.merge(load_safetensors(folder / "b.safetensors").tensors);
  save_safetensors(folder / "a.safetensors", first);
  EXPECT_THROW_WITH(load_hf_weights(folder), "must be in one file alone");
}

TEST(HfFolder, WithoutWeightsTheHintSaysHowToWriteThem) {
  const TempDir dir;
  write_file(dir / "config.json", models::to_hf_config(kShape, std::nullopt));
  write_file(dir / "pytorch_model.bin", "");
  EXPECT_THROW_WITH(hf_shape(dir.path()),
                    "must hold model.safetensors, but does not. Hint: in "
                    "Python, AutoModelForCausalLM");
}

TEST(HfFolder, AWrongTensorNamesTheFolder) {
  const TempDir dir;
  models::ModelConfig other = kShape;
  other.layers = 2;
  save_hf_folder(dir / "out", kShape, some_weights(), std::nullopt);
  write_file(dir / "out/config.json", models::to_hf_config(other, std::nullopt));
  EXPECT_THROW_WITH(load_hf_weights(dir / "out"),
                    (dir / "out").string() + "] tensor \"h.1.ln_1.weight\" must be there");
}

}  // namespace
}  // namespace mezzo::train
