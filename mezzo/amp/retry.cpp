#include "mezzo/amp/retry.h"

#include "mezzo/base/check.h"

namespace mezzo {
namespace {

bool attempt(GradScaler& scaler, torch::optim::Optimizer& optimizer, const at::Tensor& loss,
             const std::function<void()>& before_step) {
  scaler.scale(loss).backward();
  if (before_step) {
    scaler.unscale_(optimizer);
    before_step();
  }
  const StepOutcome outcome = scaler.step(optimizer);
  scaler.update();
  return outcome.stepped();
}

// Whether the scale is below that of the last attempt. Where hysteresis has held it, it is lowered
// here: at the same scale the same batch would overflow again.
bool is_lowered(GradScaler& scaler, double scale) {
  if (scaler.get_scale() == scale) scaler.update(scale * scaler.get_backoff_factor());
  return scaler.get_scale() < scale;
}

}  // namespace

RetryResult step_with_retry(GradScaler& scaler, torch::optim::Optimizer& optimizer,
                            const std::function<at::Tensor()>& loss, int64_t max_retries,
                            const std::function<void()>& before_step) {
  MEZZO_CHECK(max_retries >= 0, "step_with_retry", "max_retries must be >= 0, but is {}",
              max_retries);
  if (!scaler.is_dynamic()) max_retries = 0;
  RetryResult result;
  while (true) {
    const double scale = scaler.get_scale();
    const at::Tensor value = loss();
    result.has_stepped = attempt(scaler, optimizer, value, before_step);
    result.loss = value.detach();
    if (result.has_stepped) return result;
    optimizer.zero_grad();
    if (result.retries == max_retries || !is_lowered(scaler, scale)) return result;
    ++result.retries;
  }
}

}  // namespace mezzo
