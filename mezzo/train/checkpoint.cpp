#include "mezzo/train/checkpoint.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "mezzo/base/atomic_file.h"
#include "mezzo/base/check.h"
#include "mezzo/kernels/adamw/split_weights.h"
#include "mezzo/report/json_number.h"
#include "mezzo/train/run_folder.h"

namespace mezzo::train {
namespace {

namespace fs = std::filesystem;
using json = nlohmann::ordered_json;

constexpr FolderKind kKind{"checkpoint", kCheckpointFile, /*format=*/1};
constexpr const char* kModel = "model.safetensors";
constexpr const char* kOptimizer = "optimizer.safetensors";
constexpr const char* kRng = "rng.safetensors";
constexpr const char* kFp8 = "fp8.safetensors";

json to_json(const GradScalerState& state) {
  return {{"scale", state.scale},
          {"growth_factor", state.growth_factor},
          {"backoff_factor", state.backoff_factor},
          {"growth_interval", state.growth_interval},
          {"_growth_tracker", state.growth_tracker}};  // torch.amp's key
}

GradScalerState scaler_from_json(const json& j) {
  return {j.at("scale"), j.at("growth_factor"), j.at("backoff_factor"), j.at("growth_interval"),
          j.at("_growth_tracker")};
}

json array_of(const std::vector<double>& losses) {
  json array = json::array();
  for (const double loss : losses) array.push_back(report::json_number(loss));
  return array;
}

// Older builds kept their mean alone, NaN before the first step.
std::vector<double> train_losses_from(const json& j) {
  std::vector<double> losses;
  if (j.contains("train_losses")) {
    for (const json& loss : j.at("train_losses")) losses.push_back(report::number_of(loss));
  } else if (const double mean = report::number_of(j.at("train_loss")); std::isfinite(mean)) {
    losses.push_back(mean);
  }
  return losses;
}

json to_json(const Checkpoint& checkpoint) {
  return {{"step", checkpoint.step},
          {"skipped_steps", checkpoint.skipped_steps},
          {"explained_skips", checkpoint.explained_skips},
          {"train_losses", array_of(checkpoint.train_losses)},
          {"val_loss", report::json_number(checkpoint.val_loss)},
          {"val_accuracy", report::json_number(checkpoint.val_accuracy)},
          {"data_fingerprint", checkpoint.data_fingerprint},
          {"sampler",
           {{"seed", checkpoint.sampler.seed},
            {"epoch", checkpoint.sampler.epoch},
            {"position", checkpoint.sampler.position}}},
          {"scaler", checkpoint.scaler.has_value() ? to_json(*checkpoint.scaler) : json(nullptr)}};
}

Checkpoint from_json(const json& j) {
  Checkpoint checkpoint;
  checkpoint.step = j.at("step");
  checkpoint.skipped_steps = j.at("skipped_steps");
  checkpoint.explained_skips = j.value("explained_skips", int64_t{0});
  checkpoint.train_losses = train_losses_from(j);
  checkpoint.val_loss = report::number_of(j.at("val_loss"));
  checkpoint.val_accuracy = report::number_of(j.at("val_accuracy"));
  checkpoint.data_fingerprint = j.at("data_fingerprint");
  checkpoint.sampler.seed = j.at("sampler").at("seed");
  checkpoint.sampler.epoch = j.at("sampler").at("epoch");
  checkpoint.sampler.position = j.at("sampler").at("position");
  if (!j.at("scaler").is_null()) checkpoint.scaler = scaler_from_json(j.at("scaler"));
  return checkpoint;
}

// The step is the number after "step-"; a folder with another name is none of ours.
std::optional<int64_t> step_of(const fs::path& folder) {
  const std::string name = folder.filename().string();
  if (name.rfind("step-", 0) != 0 || name.find_first_not_of("0123456789", 5) != std::string::npos)
    return {};
  if (name.size() == 5 || name.size() > 20) return {};
  return std::stoll(name.substr(5));
}

// Split weights are joined on the host and one by one: all of them in fp32 would stand beside the
// run's own.
void add_weights(FolderFiles& files, const Checkpoint& checkpoint) {
  TensorMap whole;
  std::map<std::string, LateTensor> joined;
  for (const auto& [name, weight] : checkpoint.model) {
    const auto remainder = checkpoint.optimizer.find("remainder." + name);
    if (remainder == checkpoint.optimizer.end() || weight.scalar_type() != at::kBFloat16) {
      whole[name] = weight;
    } else {
      joined[name] = {at::kFloat, weight.sizes().vec(), [high = weight, low = remainder->second] {
                        return kernels::join(high.cpu(), low.cpu());
                      }};
    }
  }
  files.add(kModel, whole, joined);
}

/// What `load` makes of the folder's files. Where that fails, the error names the checkpoint
/// before, if there is one.
template <class Load>
auto loaded(const fs::path& folder, Load load) {
  try {
    return load(CheckedFolder(kKind, folder));
  } catch (const Error& error) {
    const fs::path run_dir = run_of(folder);
    const std::vector<fs::path> older = list_checkpoints(run_dir, step_of(folder).value_or(0) - 1);
    if (older.empty()) throw;
    throw Error(fmt::format("{}. Hint: the checkpoint before it is {}", error.what(),
                            older.back().string()));
  }
}

}  // namespace

void save_checkpoint(const fs::path& folder, const Checkpoint& checkpoint) {
  save_checked_folder(kKind, folder, to_json(checkpoint), [&](FolderFiles& files) {
    add_weights(files, checkpoint);
    files.add(kOptimizer, checkpoint.optimizer);
    files.add(kRng, checkpoint.rng);
    if (!checkpoint.fp8.empty()) files.add(kFp8, checkpoint.fp8);
  });
}

Checkpoint load_run_state(const fs::path& folder) {
  return loaded(folder, [](const CheckedFolder& files) {
    Checkpoint checkpoint;
    try {
      checkpoint = from_json(files.state());
    } catch (const json::exception& reason) {
      files.fail_damaged(reason);
    }
    files.checked(kModel);
    files.checked(kOptimizer);
    checkpoint.rng = files.tensors(kRng);
    if (files.has(kFp8)) checkpoint.fp8 = files.tensors(kFp8);
    return checkpoint;
  });
}

TensorMap load_model_tensors(const fs::path& folder) {
  return loaded(folder, [](const CheckedFolder& files) { return files.tensors(kModel); });
}

TensorMap load_optimizer_tensors(const fs::path& folder) {
  return loaded(folder, [](const CheckedFolder& files) { return files.tensors(kOptimizer); });
}

fs::path checkpoint_folder(const fs::path& run_dir, int64_t step) {
  return run_dir / kCheckpoints / fmt::format("step-{:06}", step);
}

std::vector<fs::path> list_checkpoints(const fs::path& run_dir, int64_t last_step) {
  std::vector<fs::path> found;
  std::error_code none;
  for (const auto& entry : fs::directory_iterator(run_dir / kCheckpoints, none)) {
    const std::optional<int64_t> step = step_of(entry.path());
    if (entry.is_directory() && step.has_value() && *step <= last_step)
      found.push_back(entry.path());
  }
  std::sort(found.begin(), found.end(),
            [](const auto& a, const auto& b) { return step_of(a) < step_of(b); });
  return found;
}

fs::path find_checkpoint(const fs::path& place) {
  if (fs::exists(place / kKind.state_file)) return place;
  const std::vector<fs::path> all = list_checkpoints(place);
  const fs::path config = place / kConfigFile;
  MEZZO_CHECK_USAGE(!all.empty() || !fs::exists(config), "checkpoint",
                    "{} holds no checkpoint yet. Hint: begin anew with mezzo train --config {} "
                    "--out NEW",
                    place.string(), config.string());
  MEZZO_CHECK_USAGE(!all.empty(), "checkpoint",
                    "{} holds no checkpoint; expected a run's folder (with checkpoints/step-N "
                    "inside) or one of its "
                    "checkpoints",
                    place.string());
  return all.back();
}

void prune_checkpoints(const fs::path& run_dir, int64_t keep) {
  const std::vector<fs::path> all = list_checkpoints(run_dir);
  std::map<fs::path, double> val_losses;
  for (const fs::path& folder : all) {
    try {
      const double val_loss =
          report::number_of(CheckedFolder(kKind, folder).state().at("val_loss"));
      val_losses[folder] =
          std::isnan(val_loss) ? std::numeric_limits<double>::infinity() : val_loss;
    } catch (const std::exception&) {
      continue;  // unreadable: not the best, and not ours to delete
    }
  }
  const auto best =
      std::min_element(val_losses.begin(), val_losses.end(),
                       [](const auto& a, const auto& b) { return a.second < b.second; });
  for (size_t index = 0; index + static_cast<size_t>(keep) < all.size(); ++index) {
    if (val_losses.contains(all[index]) && all[index] != best->first)
      remove_folder_atomically(all[index]);
  }
}

int64_t abandon_checkpoints_after(const fs::path& run_dir, int64_t step) {
  int64_t abandoned = 0;
  for (const fs::path& folder : list_checkpoints(run_dir)) {
    if (*step_of(folder) <= step) continue;
    const std::string name =
        (folder.parent_path() / ("abandoned-" + folder.filename().string())).string();
    fs::path free = name;
    for (int number = 2; fs::exists(free); ++number) free = fmt::format("{}-{}", name, number);
    std::error_code error;
    fs::rename(folder, free, error);
    MEZZO_CHECK(!error, "checkpoint", "cannot rename {} to {}: {}", folder.string(), free.string(),
                error.message());
    ++abandoned;
  }
  return abandoned;
}

}  // namespace mezzo::train
