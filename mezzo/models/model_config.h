#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "mezzo/kernels/rope/rope.h"

namespace mezzo::models {

/// The architectures that Mezzo trains.
enum class Family {
  kGPT2,   ///< gpt2.h
  kLlama,  ///< llama.h
};

/// The shape of a model.
struct ModelConfig {
  Family family = Family::kGPT2;
  int64_t layers = 12;
  int64_t heads = 12;
  int64_t width = 768;         // C, a multiple of heads
  int64_t context = 1024;      // most tokens the model sees at once
  int64_t vocab_size = 50304;  // rows of the token embedding; ids are below it
  double dropout = 0.0;  // after the embeddings, on attention weights, before each residual sum
  bool bias = true;      // of linear layers and norms; a Llama has none

  // A Llama's alone. A GPT-2 keeps these: its heads have keys and values each, its MLP is 4 C wide.
  int64_t kv_heads = 0;   // heads of keys and values, each for heads / kv_heads of queries
  int64_t mlp_width = 0;  // of the gated MLP
  bool tied = true;       // the head is the token embedding, as a GPT-2's always is
  double norm_eps = 1e-5;
  kernels::RopeOptions rope = {};
};

/// Throws UsageError for a shape that cannot be built, naming key, value and what is accepted.
void validate(const ModelConfig& config);

/// Trainable numbers of the model, a tied head counted once.
int64_t parameter_count(const ModelConfig& config);
/// The same in fp64, for sizes that lead beyond int64.
double parameters_of(const ModelConfig& config);

/// "GPT-2" or "Llama".
std::string_view name_of(Family family);

/// The configuration called `name`. Throws UsageError that lists the known names.
ModelConfig model_preset(std::string_view name);

/// All presets, of each family the smallest first.
std::vector<std::string> model_preset_names();

}  // namespace mezzo::models
