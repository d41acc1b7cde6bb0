#include "mezzo/train/stored_model.h"

#include "mezzo/base/atomic_file.h"
#include "mezzo/base/check.h"
#include "mezzo/models/model_config.h"
#include "mezzo/train/checkpoint.h"
#include "mezzo/train/hf_folder.h"
#include "mezzo/train/run_folder.h"
#include "mezzo/train/run_parts.h"

namespace mezzo::train {
namespace {

namespace fs = std::filesystem;

// The preset of these blocks, whatever its context and vocabulary; the smallest of its family for
// others.
std::string preset_like(const models::ModelConfig& shape) {
  std::string smallest;
  for (const std::string& name : models::model_preset_names()) {
    const models::ModelConfig preset = models::model_preset(name);
    if (preset.family != shape.family) continue;
    if (preset.layers == shape.layers && preset.heads == shape.heads && preset.width == shape.width)
      return name;
    if (smallest.empty()) smallest = name;
  }
  return smallest;
}

StoredModel find_hf_model(const fs::path& folder) {
  const models::ModelConfig shape = hf_shape(folder);
  RunConfig config;
  config.model = preset_like(shape);
  set_shape(config, shape);
  config.precision = "fp32";
  return {config, folder, folder / kTokenizerFile};
}

void check_is_something(const fs::path& place) {
  MEZZO_CHECK_USAGE(fs::exists(place / kCheckpointFile) || fs::exists(place / kCheckpoints) ||
                        fs::exists(place / kConfigFile),
                    "model",
                    "{} must be a run's folder, one of its checkpoints, or a Hugging Face folder "
                    "of a GPT-2 or a Llama (config.json, model.safetensors), but {}",
                    place.string(), fs::exists(place) ? "has none of their files" : "is not there");
}

}  // namespace

StoredModel find_model(const fs::path& place) {
  if (is_hf_folder(place)) return find_hf_model(place);
  check_is_something(place);
  const fs::path checkpoint = find_checkpoint(place);
  const fs::path run = run_of(fs::weakly_canonical(checkpoint));
  const fs::path config = run / kConfigFile;
  MEZZO_CHECK_USAGE(fs::is_regular_file(config), "model",
                    "{} must be a checkpoint in the folder of its run, but belongs to no run: "
                    "there is no {}",
                    checkpoint.string(), config.string());
  return {config_from_toml(read_file(config), config.string()), checkpoint, run / kTokenizerFile};
}

TensorMap load_weights(const StoredModel& model, at::ScalarType dtype) {
  TensorMap weights = is_hf_folder(model.weights) ? load_hf_weights(model.weights)
                                                  : load_model_tensors(model.weights);
  for (auto& [name, weight] : weights) weight = weight.to(dtype);
  return weights;
}

std::optional<data::Tokenizer> load_tokenizer(const StoredModel& model) {
  if (!fs::exists(model.tokenizer)) return std::nullopt;
  data::Tokenizer tokenizer = data::Tokenizer::load(model.tokenizer);
  const int64_t vocab_size = model_config(model.config).vocab_size;
  MEZZO_CHECK(tokenizer.vocab_size() <= vocab_size, model.tokenizer.string(),
              "must have at most the {} tokens that the model knows, but has {}", vocab_size,
              tokenizer.vocab_size());
  return tokenizer;
}

}  // namespace mezzo::train
