#include "mezzo/train/forward_backward.h"

#include <optional>

#include "mezzo/amp/autocast.h"
#include "mezzo/kernels/fused_linear/fused_accumulation.h"

namespace mezzo::train {

at::Tensor forward_backward(models::LanguageModel model, const PrecisionMode& mode,
                            const std::vector<Batch>& batches,
                            const std::function<void(const at::Tensor& loss)>& backward,
                            StepWatch* watch) {
  at::Tensor total;
  for (const Batch& batch : batches) {
    at::Tensor loss;
    if (watch != nullptr) watch->before_forward();
    {
      const Autocast autocast(batch.tokens.device().type(), mode.autocast,
                              /*enabled=*/mode.autocast.has_value());
      loss = model->loss(batch.tokens, batch.targets) / static_cast<double>(batches.size());
    }
    if (watch != nullptr) watch->after_forward();
    std::optional<kernels::FusedAccumulation> accumulation;
    if (batches.size() > 1) accumulation.emplace();
    backward(loss);
    // Summed in fp32: with pure 16-bit losses the mean of many would lose its last digits.
    const at::Tensor part = loss.detach().to(at::kFloat);
    total = total.defined() ? total + part : part;
  }
  return total;
}

}  // namespace mezzo::train
