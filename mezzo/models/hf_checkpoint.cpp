#include "mezzo/models/hf_checkpoint.h"

#include <utility>

#include "mezzo/base/check.h"
#include "mezzo/models/hf_gpt2.h"
#include "mezzo/models/hf_llama.h"
#include "mezzo/models/hf_parts.h"

namespace mezzo::models {
namespace {

using hf::Json;
using hf::Tensors;

Family family_of(const Json& json, const std::string& where) {
  const Json type = json.contains("model_type") ? json.at("model_type") : Json("absent");
  if (type == "gpt2") return Family::kGPT2;
  if (type == "llama") return Family::kLlama;
  detail::fail<UsageError>(where, R"(model_type must be "gpt2" or "llama", but is {})",
                           type.dump());
}

}  // namespace

ModelConfig from_hf_config(std::string_view text, const std::string& where) {
  const Json json = hf::parsed(text, where);
  return family_of(json, where) == Family::kGPT2 ? hf_gpt2::from_config(json, where)
                                                 : hf_llama::from_config(json, where);
}

std::string to_hf_config(const ModelConfig& config, std::optional<int64_t> end_of_text) {
  const Json json = config.family == Family::kGPT2 ? hf_gpt2::to_config(config, end_of_text)
                                                   : hf_llama::to_config(config, end_of_text);
  return json.dump(2) + "\n";
}

Tensors from_hf_weights(Tensors tensors, const ModelConfig& config, const std::string& where) {
  return config.family == Family::kGPT2 ? hf_gpt2::from_weights(std::move(tensors), config, where)
                                        : hf_llama::from_weights(std::move(tensors), config, where);
}

Tensors to_hf_weights(const Tensors& weights, const ModelConfig& config) {
  return config.family == Family::kGPT2 ? hf_gpt2::to_weights(weights, config)
                                        : hf_llama::to_weights(weights, config);
}

}  // namespace mezzo::models
