#include "mezzo/models/model_config.h"

#include <algorithm>
#include <array>
#include <cmath>

#include <fmt/ranges.h>

#include "mezzo/base/check.h"
#include "mezzo/base/nearest.h"

namespace mezzo::models {
namespace {

struct Preset {
  std::string_view name;
  ModelConfig config;
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
    Preset{"llama-nano",
           {.family = Family::kLlama,
            .layers = 4,
            .heads = 4,
            .width = 256,
            .context = 256,
            .vocab_size = 4096,
            .bias = false,
            .kv_heads = 2,
            .mlp_width = 704}},
    // Hugging Face's HuggingFaceTB/SmolLM-135M.
    Preset{"smollm-135m",
           {.family = Family::kLlama,
            .layers = 30,
            .heads = 9,
            .width = 576,
            .context = 2048,
            .vocab_size = 49152,
            .bias = false,
            .kv_heads = 3,
            .mlp_width = 1536}},
    // TinyLlama/TinyLlama-1.1B (Zhang et al., arXiv 2401.02385).
    Preset{"tinyllama-1.1b",
           {.family = Family::kLlama,
            .layers = 22,
            .heads = 32,
            .width = 2048,
            .context = 2048,
            .vocab_size = 32000,
            .bias = false,
            .kv_heads = 4,
            .mlp_width = 5632,
            .tied = false}},
    // meta-llama/Llama-3.2-1B, with the context before its rotary scaling.
    Preset{"llama-3.2-1b",
           {.family = Family::kLlama,
            .layers = 16,
            .heads = 32,
            .width = 2048,
            .context = 8192,
            .vocab_size = 128256,
            .bias = false,
            .kv_heads = 8,
            .mlp_width = 8192,
            .rope = {.base = 500000.0, .scaling = kernels::Llama3Scaling{.factor = 32.0}}}},
};

void check_positive(std::string_view key, int64_t value) {
  MEZZO_CHECK_USAGE(value > 0, "ModelConfig", "{} must be > 0, but is {}", key, value);
}

void check_multiple(std::string_view key, int64_t value, std::string_view of, int64_t divisor) {
  MEZZO_CHECK_USAGE(value % divisor == 0, "ModelConfig",
                    "{} must be a multiple of {}, but is {} with {} {}. Hint: {} or {}", key, of,
                    value, divisor, of, std::max<int64_t>(value / divisor, 1) * divisor,
                    (value / divisor + 1) * divisor);
}

void validate_gpt2(const ModelConfig& config) {
  constexpr std::string_view kWhose = "must be left out of a GPT-2, but is";
  const ModelConfig none;
  MEZZO_CHECK_USAGE(config.kv_heads == none.kv_heads, "ModelConfig", "kv_heads {} {}", kWhose,
                    config.kv_heads);
  MEZZO_CHECK_USAGE(config.mlp_width == none.mlp_width, "ModelConfig", "mlp_width {} {}", kWhose,
                    config.mlp_width);
  MEZZO_CHECK_USAGE(config.tied, "ModelConfig", "tied {} false", kWhose);
  MEZZO_CHECK_USAGE(config.norm_eps == none.norm_eps, "ModelConfig", "norm_eps {} {}", kWhose,
                    config.norm_eps);
  MEZZO_CHECK_USAGE(config.rope.base == none.rope.base && !config.rope.scaling, "ModelConfig",
                    "rope {} given", kWhose);
}

bool is_scaling(const kernels::Llama3Scaling& scaling) {
  return scaling.factor > 0 && std::isfinite(scaling.factor) && scaling.low_freq_factor > 0 &&
         scaling.high_freq_factor > scaling.low_freq_factor &&
         std::isfinite(scaling.high_freq_factor) && scaling.original_context > 0;
}

void validate_rope(const kernels::RopeOptions& rope) {
  MEZZO_CHECK_USAGE(rope.base > 0 && std::isfinite(rope.base), "ModelConfig",
                    "rope.base must be above 0 and finite, but is {}", rope.base);
  MEZZO_CHECK_USAGE(!rope.scaling || is_scaling(*rope.scaling), "ModelConfig",
                    "rope.scaling must have finite numbers above 0, and a high_freq_factor above "
                    "its low_freq_factor, but has factor {}, {} and {} and an original_context of "
                    "{}",
                    rope.scaling->factor, rope.scaling->high_freq_factor,
                    rope.scaling->low_freq_factor, rope.scaling->original_context);
}

void validate_llama(const ModelConfig& config) {
  check_positive("kv_heads", config.kv_heads);
  check_positive("mlp_width", config.mlp_width);
  check_multiple("heads", config.heads, "kv_heads", config.kv_heads);
  MEZZO_CHECK_USAGE(config.width / config.heads % 2 == 0, "ModelConfig",
                    "width / heads must be even, as rotary position embedding turns pairs, but is "
                    "{} / {} = {}",
                    config.width, config.heads, config.width / config.heads);
  MEZZO_CHECK_USAGE(!config.bias, "ModelConfig", "bias must be false in a Llama, but is true");
  validate_rope(config.rope);
  MEZZO_CHECK_USAGE(config.norm_eps > 0 && config.norm_eps < 1, "ModelConfig",
                    "norm_eps must be above 0 and below 1, but is {}", config.norm_eps);
}

double parameters_of_gpt2(const ModelConfig& config) {
  const auto C = static_cast<double>(config.width);
  const double embeddings = static_cast<double>(config.vocab_size + config.context) * C;
  const double matrices = (3 + 1 + 4 + 4) * C * C;  // c_attn, c_proj, c_fc, mlp.c_proj
  const double biases = config.bias ? (3 + 1 + 4 + 1) * C : 0;
  const double norm = config.bias ? 2 * C : C;
  return embeddings + static_cast<double>(config.layers) * (matrices + biases + 2 * norm) + norm;
}

double parameters_of_llama(const ModelConfig& config) {
  const auto C = static_cast<double>(config.width);
  const auto of_keys = static_cast<double>(config.kv_heads * (config.width / config.heads));
  const double attention = (2 * C + 2 * of_keys) * C;                // queries, keys, values, out
  const double mlp = 3 * static_cast<double>(config.mlp_width) * C;  // gate, up, down
  const double table = static_cast<double>(config.vocab_size) * C;
  return (config.tied ? 1 : 2) * table +
         static_cast<double>(config.layers) * (attention + mlp + 2 * C) + C;
}

}  // namespace

void validate(const ModelConfig& config) {
  check_positive("layers", config.layers);
  check_positive("heads", config.heads);
  check_positive("width", config.width);
  check_positive("context", config.context);
  check_positive("vocab_size", config.vocab_size);
  check_multiple("width", config.width, "heads", config.heads);
  MEZZO_CHECK_USAGE(config.dropout >= 0 && config.dropout < 1, "ModelConfig",
                    "dropout must be in [0, 1), but is {}", config.dropout);
  config.family == Family::kGPT2 ? validate_gpt2(config) : validate_llama(config);
}

double parameters_of(const ModelConfig& config) {
  return config.family == Family::kGPT2 ? parameters_of_gpt2(config) : parameters_of_llama(config);
}

int64_t parameter_count(const ModelConfig& config) {
  return static_cast<int64_t>(parameters_of(config));
}

std::string_view name_of(Family family) { return family == Family::kGPT2 ? "GPT-2" : "Llama"; }

ModelConfig model_preset(std::string_view name) {
  for (const Preset& preset : kPresets) {
    if (preset.name == name) {
      return preset.config;
    }
  }
  detail::fail<UsageError>("model_preset", "no model is called \"{}\"{}; known: {}", name,
                           did_you_mean(name, model_preset_names()),
                           fmt::join(model_preset_names(), ", "));
}

std::vector<std::string> model_preset_names() {
  std::vector<std::string> names;
  for (const Preset& preset : kPresets) {
    names.emplace_back(preset.name);
  }
  return names;
}

}  // namespace mezzo::models
