#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "mezzo/models/language_model.h"

namespace mezzo::models {

struct SampleOptions {
  double temperature = 1.0;  // 0: always the likeliest token
  int64_t top_k = 0;         // draw among the k likeliest; 0: among all
  int64_t vocab_size = 0;    // ids from here on are padding, never drawn; 0: the model has none
  std::vector<int64_t> never = {};  // other ids that are no tokens, and not drawn either
  uint64_t seed = 0;
};

/// `count` tokens that continue `prompt`, without the prompt. Once the text outgrows the context,
/// the model sees its last `context` tokens. `on_token` hears each as it is drawn, and ends it
/// there by returning false. Draws come from `seed` alone; dropout is off, and the model's training
/// mode is put back afterwards. Throws Error for an empty prompt, a prompt id outside the
/// vocabulary, an option out of range, or logits that are not finite. Synchronises with the device
/// at each token.
std::vector<int64_t> sample(LanguageModel model, const std::vector<int64_t>& prompt, int64_t count,
                            const SampleOptions& options = {},
                            const std::function<bool(int64_t id)>& on_token = {});

}  // namespace mezzo::models
