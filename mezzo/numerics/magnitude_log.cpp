#include "mezzo/numerics/magnitude_log.h"

#include <atomic>
#include <cmath>
#include <mutex>

#include "mezzo/base/check.h"
#include "mezzo/base/ivalue_tensors.h"
#include "mezzo/numerics/birth.h"
#include "mezzo/numerics/quiet.h"
#include "mezzo/numerics/recorder.h"

namespace mezzo::numerics {
namespace {

constexpr int64_t kSample = 1024;

std::atomic<MagnitudeLog*> active{nullptr};
std::mutex mutex;  // other threads may be within an op when a log is gone

// See Note [What a RecordFunction callback may do].
at::CallbackHandle callback(at::RecordFunctionCallback::EndCallback end) {
  return at::addGlobalCallback(
      at::RecordFunctionCallback(
          [](const at::RecordFunction&) -> std::unique_ptr<at::ObserverContext> { return nullptr; },
          end)
          .needsOutputs(true)
          .scopes({at::RecordScope::FUNCTION}));
}

at::CallbackHandle handle_of(at::RecordFunctionCallback::EndCallback end) {
  static const at::CallbackHandle handle = callback(end);
  return handle;
}

}  // namespace

MagnitudeLog::MagnitudeLog() {
  const at::CallbackHandle handle = handle_of(&MagnitudeLog::on_end);
  MagnitudeLog* none = nullptr;
  MEZZO_CHECK(active.compare_exchange_strong(none, this), "numerics",
              "the magnitudes of a step are already being sampled");
  at::reenableCallback(handle);
}

MagnitudeLog::~MagnitudeLog() {
  const std::scoped_lock lock(mutex);
  at::disableCallback(handle_of(&MagnitudeLog::on_end));
  active = nullptr;
}

const std::vector<float>& MagnitudeLog::of(uint64_t key, at::ScalarType dtype) const {
  static const std::vector<float> kNone;
  const auto found = samples_.find({key, dtype});
  return found == samples_.end() ? kNone : found->second;
}

void MagnitudeLog::on_end(const at::RecordFunction& function, at::ObserverContext*) {
  if (OpFacts::of(function) == nullptr) return;
  const std::scoped_lock lock(mutex);
  MagnitudeLog* log = active.load();
  if (log == nullptr) return;
  try {
    const Quiet quiet;
    for_each_tensor(function.outputs(),
                    [&](size_t, const at::Tensor& tensor) { log->sample(tensor); });
  } catch (const std::exception&) {
    // A layout that cannot be read so: the recorder says what is to be said of it.
  }
}

void MagnitudeLog::sample(const at::Tensor& tensor) {
  if (!tensor.is_floating_point() || tensor.layout() != at::kStrided || tensor.numel() == 0 ||
      !tensor.is_non_overlapping_and_dense())
    return;
  const int64_t N = tensor.numel();
  // Odd: an even step would meet the same few columns in every row of a matrix.
  const int64_t step = std::max<int64_t>(1, N / kSample) | 1;
  const at::Tensor some =
      tensor.detach().as_strided({(N + step - 1) / step}, {step}).to(at::kCPU, at::kFloat);
  const float* value = some.const_data_ptr<float>();
  std::vector<float>& samples = samples_[{Recorder::current_key(), tensor.scalar_type()}];
  for (int64_t i = 0; i < some.numel(); ++i) {
    if (value[i] != 0.0f && std::isfinite(value[i])) samples.push_back(std::abs(value[i]));
  }
}

}  // namespace mezzo::numerics
