#include "mezzo/models/gpt2_config.h"

#include <algorithm>
#include <array>

#include <fmt/ranges.h>

#include "mezzo/base/check.h"
#include "mezzo/base/nearest.h"

namespace mezzo::models {
namespace {

struct Preset {
  std::string_view name;
  GPT2Config config;
};

// OpenAI's vocabulary of 50257 is padded to 50304, a multiple of 128: the head's matrix product,
// the largest of the model, then meets no ragged edge (a multiple of 8 is what Tensor Cores need).
constexpr int64_t kPaddedVocab = 50304;

constexpr std::array kPresets{
    Preset{"nano", {.layers = 4, .heads = 4, .width = 256, .context = 256, .vocab_size = 4096}},
    Preset{"mini", {.layers = 6, .heads = 6, .width = 384, .context = 256, .vocab_size = 8192}},
    Preset{"gpt2", {.layers = 12, .heads = 12, .width = 768, .vocab_size = kPaddedVocab}},
    Preset{"gpt2-medium", {.layers = 24, .heads = 16, .width = 1024, .vocab_size = kPaddedVocab}},
    Preset{"gpt2-large", {.layers = 36, .heads = 20, .width = 1280, .vocab_size = kPaddedVocab}},
    Preset{"gpt2-xl", {.layers = 48, .heads = 25, .width = 1600, .vocab_size = kPaddedVocab}},
};

void check_positive(std::string_view key, int64_t value) {
  MEZZO_CHECK_USAGE(value > 0, "GPT2Config", "{} must be > 0, but is {}", key, value);
}

}  // namespace

void validate(const GPT2Config& config) {
  check_positive("layers", config.layers);
  check_positive("heads", config.heads);
  check_positive("width", config.width);
  check_positive("context", config.context);
  check_positive("vocab_size", config.vocab_size);
  MEZZO_CHECK_USAGE(config.width % config.heads == 0, "GPT2Config",
                    "width must be a multiple of heads, but is {} with {} heads. Hint: {} or {}",
                    config.width, config.heads,
                    std::max<int64_t>(config.width / config.heads, 1) * config.heads,
                    (config.width / config.heads + 1) * config.heads);
  MEZZO_CHECK_USAGE(config.dropout >= 0 && config.dropout < 1, "GPT2Config",
                    "dropout must be in [0, 1), but is {}", config.dropout);
}

int64_t parameter_count(const GPT2Config& config) {
  const int64_t C = config.width;
  const int64_t embeddings = (config.vocab_size + config.context) * C;
  const int64_t matrices = (3 + 1 + 4 + 4) * C * C;  // c_attn, c_proj, c_fc, mlp.c_proj
  const int64_t biases = config.bias ? (3 + 1 + 4 + 1) * C : 0;
  const int64_t norm = config.bias ? 2 * C : C;
  return embeddings + config.layers * (matrices + biases + 2 * norm) + norm;
}

GPT2Config gpt2_preset(std::string_view name) {
  for (const Preset& preset : kPresets) {
    if (preset.name == name) {
      return preset.config;
    }
  }
  detail::fail<UsageError>("gpt2_preset", "no model is called \"{}\"{}; known: {}", name,
                           did_you_mean(name, gpt2_preset_names()),
                           fmt::join(gpt2_preset_names(), ", "));
}

std::vector<std::string> gpt2_preset_names() {
  std::vector<std::string> names;
  for (const Preset& preset : kPresets) {
    names.emplace_back(preset.name);
  }
  return names;
}

}  // namespace mezzo::models
