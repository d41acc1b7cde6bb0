#include "mezzo/train/saved_step.h"

#include <cmath>
#include <set>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <ATen/Parallel.h>

#include "mezzo/base/atomic_file.h"
#include "mezzo/base/check.h"
#include "mezzo/report/json_number.h"
#include "mezzo/train/device.h"
#include "mezzo/train/run_folder.h"
#include "mezzo/train/run_optimizer.h"
#include "mezzo/train/run_parts.h"

namespace mezzo::train {
namespace {

namespace fs = std::filesystem;
using json = nlohmann::ordered_json;

// Not state.json, by which a checkpoint is known.
constexpr FolderKind kKind{"doctor", "step.json", /*format=*/1};
constexpr const char* kModel = "model.safetensors";
constexpr const char* kBatch = "batch.safetensors";
constexpr const char* kRng = "rng.safetensors";
constexpr const char* kFp8 = "fp8.safetensors";

// The step stays the same: its weights, its batches, its random numbers.
const std::set<std::string> kMayChange = {"cast-policy", "cast-rules", "fp8-scaling",
                                          "loss-scale",  "precision",  "threads"};

const at::Tensor& tensor_of(const TensorMap& tensors, const std::string& name,
                            const fs::path& file) {
  const auto found = tensors.find(name);
  MEZZO_CHECK(found != tensors.end(), "doctor", "{} has no tensor {}", file.string(), name);
  return found->second;
}

std::vector<Batch> batches_from(const TensorMap& tensors, const fs::path& file) {
  std::vector<Batch> batches(tensors.size() / 2);
  MEZZO_CHECK(!batches.empty(), "doctor", "{} holds no batch", file.string());
  for (size_t i = 0; i < batches.size(); ++i) {
    const std::string suffix = batches.size() == 1 ? "" : fmt::format(".{}", i);
    batches[i] = {tensor_of(tensors, "tokens" + suffix, file),
                  tensor_of(tensors, "targets" + suffix, file)};
  }
  return batches;
}

// The saved scale, unless the configuration has a scale of its own now or scales for the first
// time.
double scale_in(const RunConfig& config, const SavedStep& step) {
  const auto now = scaler_options(config), then = scaler_options(step.config);
  if (!now.enabled) return 1.0;
  const bool has_own = !now.is_dynamic && config.loss_scale != step.config.loss_scale;
  return has_own || !then.enabled ? now.init_scale : step.failed.scale;
}

FailedStep on_device(const FailedStep& failed, at::Device device) {
  FailedStep moved = failed;
  for (Batch& batch : moved.batches) batch = {batch.tokens.to(device), batch.targets.to(device)};
  return moved;
}

}  // namespace

fs::path failure_folder(const fs::path& run_dir, int64_t step) {
  return run_dir / kFailures / fmt::format("step-{}", step);
}

bool has_room_for_failure(const fs::path& run_dir, int64_t step, int64_t most) {
  if (fs::exists(failure_folder(run_dir, step))) return true;
  int64_t count = 0;
  std::error_code none;
  for (const auto& entry : fs::directory_iterator(run_dir / kFailures, none))
    count += entry.path().filename().string().rfind("step-", 0) == 0 ? 1 : 0;
  return count < most;
}

void save_step(const fs::path& folder, const SavedStep& step) {
  remove_folder_atomically(folder);
  RunConfig config = step.config;
  config.threads = at::get_num_threads();
  TensorMap batches;
  for (const auto& [name, tensor] : named_batches(step.failed.batches)) batches[name] = tensor;
  const json state = {{"step", step.number}, {"scale", report::json_number(step.failed.scale)}};
  save_checked_folder(kKind, folder, state, [&](FolderFiles& files) {
    files.add(kConfigFile, to_toml(config));
    files.add(kModel, step.weights);
    files.add(kBatch, batches);
    files.add(kRng, step.failed.random.states());
    if (!step.failed.fp8.empty()) files.add(kFp8, step.failed.fp8);
  });
}

SavedStep load_step(const fs::path& folder) {
  MEZZO_CHECK_USAGE(fs::exists(folder / kKind.state_file), "doctor",
                    "{} holds no saved step (there is no {} in it); expected a folder "
                    "RUN/failures/step-N that mezzo train has written",
                    folder.string(), kKind.state_file);
  const CheckedFolder files(kKind, folder);
  std::vector<Batch> batches = batches_from(files.tensors(kBatch), folder / kBatch);
  RandomState random(files.tensors(kRng));
  TensorMap fp8 = files.has(kFp8) ? files.tensors(kFp8) : TensorMap();
  RunConfig config = config_from_toml(files.text(kConfigFile), (folder / kConfigFile).string());
  TensorMap weights = files.tensors(kModel);
  // Not made in place: g++ 12 frees members twice where an aggregate's later initializer throws.
  SavedStep step{0,
                 {std::move(batches), 1.0, std::move(random), std::move(fp8)},
                 std::move(config),
                 std::move(weights)};
  try {
    step.number = files.state().at("step");
    step.failed.scale = report::number_of(files.state().at("scale"));
  } catch (const json::exception& reason) {
    files.fail_damaged(reason);
  }
  MEZZO_CHECK(step.failed.scale > 0 && std::isfinite(step.failed.scale), "doctor",
              "{}: scale must be above 0 and finite, but is {}",
              (folder / kKind.state_file).string(), step.failed.scale);
  return step;
}

RunConfig config_for(const SavedStep& step, const GivenOptions& given) {
  for (const auto& [name, value] : given.values) {
    MEZZO_CHECK_USAGE(kMayChange.contains(name), "doctor",
                      "--{} {} cannot be given with a saved step, which is run as it was. What may "
                      "change: --{}",
                      name, value, fmt::join(kMayChange, ", --"));
  }
  RunConfig config = step.config;
  apply_given(config, given);
  if (!given.values.contains("fp8-scaling")) config = in_precision(config, config.precision);
  check_config(config);
  return config;
}

ExaminedStep examine(const SavedStep& step, const RunConfig& config) {
  const CastPolicyGuard policy(cast_policy_of(config));
  const PrecisionMode& mode = precision_mode(config.precision);
  const at::Device device = ready_device(config.device);
  models::LanguageModel model = make_model(config, mode, device);
  RunOptimizer optimizer(model, mode, optim::AdamWOptions(config.lr), config.accumulate > 1);
  TensorMap weights;
  for (const auto& [name, tensor] : step.weights) weights[name] = tensor.to(mode.weights);
  optimizer.load_weights(weights, fmt::format("the saved step {}", step.number));
  FailedStep failed = on_device(step.failed, device);
  failed.scale = scale_in(config, step);
  if (config.fp8_scaling != step.config.fp8_scaling) failed.fp8.clear();
  failed.random.restore();
  numerics::Diagnosis diagnosis = numerics::diagnose(patient_of(model, failed, mode));
  return {step.number, config, std::move(diagnosis)};
}

}  // namespace mezzo::train
