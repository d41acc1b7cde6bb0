#include "mezzo/numerics/patient_state.h"

#include <ATen/autocast_mode.h>
#include <ATen/core/grad_mode.h>

namespace mezzo::numerics {

PatientState::PatientState(const Patient& patient) : random_(at::kCPU) {
  const at::NoGradGuard no_grad;
  for (const auto* list : {&patient.parameters, &patient.buffers, &patient.inputs}) {
    for (const auto& [name, tensor] : *list) {
      if (!tensor.defined()) continue;
      tensors_.push_back({tensor, tensor.detach().clone()});
      if (!random_.states().contains(tensor.device().str())) random_.add(tensor.device());
    }
  }
  for (const auto& [name, parameter] : patient.parameters) {
    const at::Tensor grad = parameter.grad();
    grads_.push_back({parameter, grad, grad.defined() ? grad.detach().clone() : at::Tensor()});
  }
}

void PatientState::restore() const {
  const at::NoGradGuard no_grad;
  for (const Saved& saved : tensors_) {
    // An optimizer made within the step may have split a weight, which is of 16 bits since.
    if (saved.tensor.scalar_type() != saved.copy.scalar_type())
      saved.tensor.set_data(saved.copy.clone());
    else
      saved.tensor.detach().copy_(saved.copy);
  }
  for (const SavedGrad& saved : grads_) {
    if (saved.grad.defined()) saved.grad.detach().copy_(saved.copy);
    saved.parameter.mutable_grad() = saved.grad;
  }
  random_.restore();
  at::autocast::clear_cache();
}

at::Tensor PatientState::before(const at::Tensor& tensor) const {
  for (const Saved& saved : tensors_) {
    if (saved.tensor.is_same(tensor)) return saved.copy;
  }
  return {};
}

}  // namespace mezzo::numerics
