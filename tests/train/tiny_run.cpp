#include "tests/train/tiny_run.h"

#include <string>

#include "tests/testing.h"

namespace mezzo::train {
namespace {

constexpr int64_t kVocabulary = 61;

// Tokens with a rule that can be learned: each is three more than the one before, but for some
// noise.
data::TokenFile write_tokens(const std::filesystem::path& folder) {
  std::string bytes;
  uint32_t token = 0, noise = 1;
  for (int i = 0; i < 4000; ++i) {
    noise = noise * 1664525u + 1013904223u;
    token = (noise >> 28) == 0 ? (noise >> 8) % kVocabulary : (token + 3) % kVocabulary;
    bytes.push_back(static_cast<char>(token));
    bytes.push_back('\0');
  }
  const std::filesystem::path path = folder / "tiny.bin";
  mezzo::testing::write_file(path, bytes);
  return data::TokenFile::open(path, {.vocab_size = kVocabulary, .min_held_out = 64});
}

}  // namespace

TinyRun::TinyRun(const std::filesystem::path& folder) : tokens(write_tokens(folder)) {
  config.layers = 1;
  config.heads = 2;
  config.width = 16;
  config.context = 16;
  config.vocab_size = 64;
  config.dropout = 0.1;  // so that the random generator's state matters
  config.batch = 4;
  config.steps = 12;
  config.warmup = 1;
  config.lr = 1e-2;
  config.precision = "fp32";
  config.checkpoint_every = 0;
  config.eval_every = 0;
  config.eval_batches = 2;
  config.sample_tokens = 0;
  config.out = (folder / "run").string();
}

void TinyRun::use_fp8(const std::string& scaling) {
  config.layers = 3;
  config.precision = "fp8";
  config.fp8_scaling = scaling;
}

void TinyRun::use_llama() {
  config.model = "llama-nano";
  config.kv_heads = 1;
  config.mlp_width = 32;
  config.tied = false;
  config.rope_scaling = "4,1,4,8";
}

}  // namespace mezzo::train
