#include "mezzo/train/evaluate.h"

#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/zeros.h>

#include "mezzo/amp/autocast.h"

namespace mezzo::train {

Evaluation evaluate(models::GPT2& model, const PrecisionMode& mode,
                    const std::vector<Batch>& batches) {
  at::NoGradGuard no_grad;
  model->eval();
  const at::Device device = batches.front().tokens.device();
  // On the device, in fp64: a GPU that had to tell of each batch would wait for the host to give it
  // the next one.
  const at::Tensor sums = at::zeros({2}, at::TensorOptions(at::kDouble).device(device));
  int64_t tokens = 0;
  for (const Batch& batch : batches) {
    const Autocast autocast(batch.tokens.device().type(), mode.autocast, mode.autocast.has_value());
    const at::Tensor logits = model->forward(batch.tokens);
    // fp32 whatever the mode: the yardstick must not round differently from what it measures.
    const at::Tensor rows = logits.view({-1, logits.size(-1)}).to(at::kFloat);
    const at::Tensor targets = batch.targets.reshape({-1});
    sums[0].add_(at::cross_entropy_loss(rows, targets));
    sums[1].add_((rows.argmax(-1) == targets).sum());
    tokens += targets.numel();
  }
  model->train();
  const at::Tensor read = sums.cpu();
  const double* values = read.const_data_ptr<double>();
  return {values[0] / static_cast<double>(batches.size()), values[1] / static_cast<double>(tokens)};
}

}  // namespace mezzo::train
