#include "mezzo/amp/scaler_state.h"

#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include <caffe2/serialize/inline_container.h>

#include <ATen/core/Dict.h>
#include <ATen/core/ivalue.h>
#include <ATen/core/jit_type.h>
#include <torch/csrc/jit/serialization/pickle.h>
#include <torch/csrc/jit/serialization/pickler.h>

#include "mezzo/base/atomic_file.h"
#include "mezzo/base/check.h"

namespace mezzo {
namespace {

constexpr const char* kWhere = "GradScaler state";

using Dict = c10::impl::GenericDict;

Dict to_dict(const std::optional<GradScalerState>& state) {
  Dict dict(c10::StringType::get(), c10::AnyType::get());
  if (!state.has_value()) return dict;
  dict.insert("scale", state->scale);
  dict.insert("growth_factor", state->growth_factor);
  dict.insert("backoff_factor", state->backoff_factor);
  dict.insert("growth_interval", state->growth_interval);
  dict.insert("_growth_tracker", state->growth_tracker);
  return dict;
}

// Python's numbers are what the user wrote: growth_factor=2 is an int in the file.
double number_at(const Dict& dict, const char* key) {
  const auto found = dict.find(key);
  MEZZO_CHECK(found != dict.end(), kWhere, "the key \"{}\" is missing", key);
  MEZZO_CHECK(found->value().isScalar(), kWhere, "\"{}\" must be a number", key);
  return found->value().toScalar().toDouble();
}

std::optional<GradScalerState> from_dict(const Dict& dict) {
  if (dict.empty()) return std::nullopt;
  return GradScalerState{number_at(dict, "scale"), number_at(dict, "growth_factor"),
                         number_at(dict, "backoff_factor"),
                         static_cast<int64_t>(number_at(dict, "growth_interval")),
                         static_cast<int64_t>(number_at(dict, "_growth_tracker"))};
}

}  // namespace

void save_torch_file(const std::optional<GradScalerState>& state,
                     const std::filesystem::path& path) {
  // torch::jit::pickle_save tags dicts with their TorchScript type, by a function that torch.load
  // refuses to call when weights_only; hence the pickler here, without tags.
  std::string pickle;
  torch::jit::Pickler pickler([&](const char* bytes, size_t size) { pickle.append(bytes, size); },
                              nullptr, nullptr, nullptr, nullptr, /*tag_aggregates=*/false);
  pickler.protocol();
  pickler.pushIValue(to_dict(state));
  pickler.stop();

  // In memory first: the writer's destructor ends the process where the disk fails.
  std::string bytes;
  caffe2::serialize::PyTorchStreamWriter archive([&](const void* part, size_t size) {
    bytes.append(static_cast<const char*>(part), size);
    return size;
  });
  const std::string byte_order = "little";
  archive.writeRecord("data.pkl", pickle.data(), pickle.size());
  archive.writeRecord("byteorder", byte_order.data(), byte_order.size());
  archive.writeEndOfFile();

  write_file_atomically(path, bytes);
}

std::optional<GradScalerState> load_torch_file(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  MEZZO_CHECK(file.good(), kWhere, "cannot read {}", path.string());
  const std::vector<char> bytes{std::istreambuf_iterator<char>(file), {}};
  c10::IValue value;
  try {
    value = torch::jit::pickle_load(bytes);
  } catch (const std::exception&) {
    MEZZO_CHECK(false, kWhere,
                "{} is not a file of torch.save(scaler.state_dict()). Hint: a scaler's state "
                "stands in a file of its own here, not beside a model's",
                path.string());
  }
  MEZZO_CHECK(value.isGenericDict(), kWhere, "{} must hold a dict", path.string());
  return from_dict(value.toGenericDict());
}

}  // namespace mezzo
