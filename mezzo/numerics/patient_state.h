#pragma once

#include <vector>

#include <ATen/core/Tensor.h>

#include "mezzo/base/random_state.h"
#include "mezzo/numerics/doctor.h"

namespace mezzo::numerics {

/// All that a step reads and may change: parameters and their gradients, buffers, inputs, the
/// default generators. A copy of each.
class PatientState {
 public:
  explicit PatientState(const Patient& patient);

  /// Puts everything back, bit for bit, into the same tensors, and empties autocast's cache of
  /// casts.
  void restore() const;

  /// As the named tensor was; undefined for one that is not the patient's.
  at::Tensor before(const at::Tensor& tensor) const;

 private:
  struct Saved {
    at::Tensor tensor, copy;
  };
  struct SavedGrad {
    at::Tensor parameter, grad, copy;  // grad undefined: there was none
  };
  std::vector<Saved> tensors_;
  std::vector<SavedGrad> grads_;
  RandomState random_;
};

}  // namespace mezzo::numerics
