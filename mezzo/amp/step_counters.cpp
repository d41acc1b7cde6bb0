#include "mezzo/amp/step_counters.h"

#include <ATen/ops/stack.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

namespace mezzo {

at::Tensor make_step_counters(at::Device device) {
  at::Tensor counters = at::zeros({3}, at::TensorOptions().dtype(at::kLong).device(device));
  counters.select(0, 2).fill_(-1);
  return counters;
}

void count_step_(at::Tensor& counters, const at::Tensor& found_inf) {
  const at::Tensor is_bad = found_inf.ne(0).squeeze();
  at::Tensor steps_and_skips = counters.narrow(0, 0, 2);
  at::Tensor last_overflow = counters.select(0, 2);
  last_overflow.copy_(at::where(is_bad, steps_and_skips.sum(), last_overflow));
  steps_and_skips.add_(at::stack({is_bad.logical_not(), is_bad}));
}

}  // namespace mezzo
