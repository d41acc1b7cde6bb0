#include "mezzo/train/evaluate.h"

#include <algorithm>

#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/zeros.h>

#include "mezzo/amp/autocast.h"
#include "mezzo/models/eval_guard.h"

namespace mezzo::train {
namespace {

// All logits of a batch at once, several times over, would be more than a training step keeps. A
// GPU needs many to be busy between two launches: these, at ten bytes each, are 1.3 GiB.
int64_t logits_at_once(at::Device device) { return device.is_cuda() ? 1 << 27 : 1 << 22; }

void add_to(const at::Tensor& sums, const at::Tensor& logits, const at::Tensor& targets) {
  // fp32 whatever the mode: the yardstick must not round differently from what it measures.
  const at::Tensor rows = logits.to(at::kFloat);
  sums[0].add_(at::cross_entropy_loss(rows, targets).to(at::kDouble) * targets.numel());
  sums[1].add_((rows.argmax(-1) == targets).sum());
}

}  // namespace

Evaluation evaluate(models::LanguageModel model, const PrecisionMode& mode,
                    const std::vector<Batch>& batches) {
  at::NoGradGuard no_grad;
  const models::EvalGuard eval(*model);
  const at::Device device = batches.front().tokens.device();
  // On the device, in fp64: a GPU that had to tell of each batch would wait for the host to give it
  // the next one.
  const at::Tensor sums = at::zeros({2}, at::TensorOptions(at::kDouble).device(device));
  const int64_t rows_at_once =
      std::max<int64_t>(1, logits_at_once(device) / model->config().vocab_size);
  int64_t tokens = 0;
  for (const Batch& batch : batches) {
    const Autocast autocast(batch.tokens.device().type(), mode.autocast, mode.autocast.has_value());
    const at::Tensor x = model->features(batch.tokens).flatten(0, 1);
    const at::Tensor targets = batch.targets.reshape({-1});
    for (int64_t row = 0; row < x.size(0); row += rows_at_once) {
      const int64_t rows = std::min(rows_at_once, x.size(0) - row);
      add_to(sums, model->head(x.narrow(0, row, rows)), targets.narrow(0, row, rows));
    }
    tokens += targets.numel();
  }
  const at::Tensor read = sums.cpu();
  const double* values = read.const_data_ptr<double>();
  const auto N = static_cast<double>(tokens);
  return {values[0] / N, values[1] / N};
}

}  // namespace mezzo::train
