#include "mezzo/models/make_model.h"

#include "mezzo/models/gpt2.h"
#include "mezzo/models/llama.h"

namespace mezzo::models {

LanguageModel make_language_model(const ModelConfig& config, uint64_t seed) {
  if (config.family == Family::kLlama) return Llama(config, seed);
  return GPT2(config, seed);
}

}  // namespace mezzo::models
