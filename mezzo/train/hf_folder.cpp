#include "mezzo/train/hf_folder.h"

#include <set>
#include <string>

#include <nlohmann/json.hpp>

#include "mezzo/base/atomic_file.h"
#include "mezzo/base/check.h"
#include "mezzo/base/safetensors.h"
#include "mezzo/models/hf_checkpoint.h"

namespace mezzo::train {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr const char* kConfig = "config.json";
constexpr const char* kWeights = "model.safetensors";
constexpr const char* kIndex = "model.safetensors.index.json";
constexpr const char* kTokenizer = "tokenizer.json";

void check_has_weights(const fs::path& folder) {
  MEZZO_CHECK_USAGE(fs::exists(folder / kWeights) || fs::exists(folder / kIndex), folder.string(),
                    "must hold {}, but does not. Hint: in Python, "
                    "AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(NEW) writes it",
                    kWeights);
}

// A path would lead out of the folder.
bool is_file_name(const Json& file) {
  if (!file.is_string()) return false;
  const fs::path path = file.get<std::string>();
  return path == path.filename() && path.extension() == ".safetensors";
}

std::set<std::string> shards_in(const fs::path& index) {
  const Json json = Json::parse(read_file(index), nullptr, /*allow_exceptions=*/false);
  const bool has_map =
      json.is_object() && json.contains("weight_map") && json.at("weight_map").is_object();
  MEZZO_CHECK(has_map, index.string(), "must hold a JSON object with a weight_map, but does not");
  std::set<std::string> shards;
  for (const auto& [tensor, file] : json.at("weight_map").items()) {
    MEZZO_CHECK(is_file_name(file), index.string(),
                "the file of \"{}\" must be a .safetensors beside this, but is {}", tensor,
                file.dump());
    shards.insert(file.get<std::string>());
  }
  return shards;
}

TensorMap read_tensors(const fs::path& folder) {
  check_has_weights(folder);
  if (fs::exists(folder / kWeights)) return load_safetensors(folder / kWeights).tensors;
  TensorMap tensors;
  for (const std::string& shard : shards_in(folder / kIndex)) {
    for (auto& [name, tensor] : load_safetensors(folder / shard).tensors) {
      const bool is_new = tensors.emplace(name, tensor).second;
      MEZZO_CHECK(is_new, (folder / shard).string(),
                  "tensor \"{}\" must be in one file alone, but is in another of {}, too", name,
                  kIndex);
    }
  }
  return tensors;
}

}  // namespace

bool is_hf_folder(const fs::path& folder) { return fs::exists(folder / kConfig); }

models::ModelConfig hf_shape(const fs::path& folder) {
  const fs::path config = folder / kConfig;
  const models::ModelConfig shape = models::from_hf_config(read_file(config), config.string());
  check_has_weights(folder);
  return shape;
}

TensorMap load_hf_weights(const fs::path& folder) {
  return models::from_hf_weights(read_tensors(folder), hf_shape(folder), folder.string());
}

void save_hf_folder(const fs::path& folder, const models::ModelConfig& config,
                    const TensorMap& weights, const std::optional<data::Tokenizer>& tokenizer) {
  const std::optional<int32_t> end = tokenizer ? tokenizer->end_of_text() : std::nullopt;
  // transformers reads no file that does not say what it was written for.
  const SafeTensors file{models::to_hf_weights(weights, config), {{"format", "pt"}}};
  write_folder_atomically(folder, [&](const fs::path& temporary) {
    write_file_atomically(temporary / kConfig, models::to_hf_config(config, end));
    save_safetensors(temporary / kWeights, file);
    if (tokenizer) tokenizer->save(temporary / kTokenizer);
  });
}

}  // namespace mezzo::train
