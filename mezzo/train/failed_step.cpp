#include "mezzo/train/failed_step.h"

#include <fmt/format.h>

#include "mezzo/numerics/quiet.h"
#include "mezzo/train/forward_backward.h"

namespace mezzo::train {

std::vector<numerics::NamedTensor> named_batches(const std::vector<Batch>& batches) {
  std::vector<numerics::NamedTensor> named;
  for (size_t i = 0; i < batches.size(); ++i) {
    const std::string suffix = batches.size() == 1 ? "" : fmt::format(".{}", i);
    named.emplace_back("tokens" + suffix, batches[i].tokens);
    named.emplace_back("targets" + suffix, batches[i].targets);
  }
  return named;
}

numerics::Patient patient_of(models::LanguageModel model, const FailedStep& failed,
                             const PrecisionMode& mode) {
  numerics::Patient patient;
  for (const auto& item : model->named_parameters())
    patient.parameters.emplace_back(item.key(), item.value());
  for (const at::Tensor& moments : failed.moments)
    if (moments.defined()) patient.buffers.emplace_back("state of the optimizer", moments);
  patient.inputs = named_batches(failed.batches);
  patient.step = [model, batches = failed.batches, &mode, scale = failed.scale, fp8 = failed.fp8,
                  update = failed.update]() mutable {
    {
      const numerics::Quiet quiet;  // no op of the step
      model->set_fp8_histories(fp8);
    }
    at::Tensor loss = forward_backward(model, mode, batches, [scale](const at::Tensor& part) {
      (part.to(at::kFloat) * scale).backward();
    });
    if (update) update();
    return loss;
  };
  return patient;
}

}  // namespace mezzo::train
