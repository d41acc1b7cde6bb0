#include "mezzo/train/evaluate.h"

#include <ATen/ops/cross_entropy_loss.h>

#include "mezzo/amp/autocast.h"

namespace mezzo::train {

Evaluation evaluate(models::GPT2& model, const PrecisionMode& mode,
                    const std::vector<Batch>& batches) {
  at::NoGradGuard no_grad;
  model->eval();
  double loss = 0.0;
  int64_t correct = 0, tokens = 0;
  for (const Batch& batch : batches) {
    const Autocast autocast(batch.tokens.device().type(), mode.autocast, mode.autocast.has_value());
    const at::Tensor logits = model->forward(batch.tokens);
    // fp32 whatever the mode: the yardstick must not round differently from what it measures.
    const at::Tensor rows = logits.view({-1, logits.size(-1)}).to(at::kFloat);
    const at::Tensor targets = batch.targets.reshape({-1});
    loss += at::cross_entropy_loss(rows, targets).item<double>();
    correct += (rows.argmax(-1) == targets).sum().item<int64_t>();
    tokens += targets.numel();
  }
  model->train();
  return {loss / static_cast<double>(batches.size()),
          static_cast<double>(correct) / static_cast<double>(tokens)};
}

}  // namespace mezzo::train
