#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace mezzo::models {

/// The shape of a GPT-2.
struct GPT2Config {
  int64_t layers = 12;
  int64_t heads = 12;
  int64_t width = 768;         // C, a multiple of heads
  int64_t context = 1024;      // most tokens the model sees at once
  int64_t vocab_size = 50304;  // rows of the token embedding; ids are below it
  double dropout = 0.0;  // after the embeddings, on attention weights, before each residual sum
  bool bias = true;      // of linear layers and norms
};

/// Throws UsageError for a shape that cannot be built, naming key, value and what is accepted.
void validate(const GPT2Config& config);

/// Trainable numbers of the model, the tied head counted once.
int64_t parameter_count(const GPT2Config& config);

/// The configuration called `name`. Throws UsageError that lists the known names.
GPT2Config gpt2_preset(std::string_view name);

/// All presets, smallest first.
std::vector<std::string> gpt2_preset_names();

}  // namespace mezzo::models
