#include <algorithm>
#include <vector>

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include "mezzo/kernels/simd/numbers.h"
#include "mezzo/kernels/simd/with_type.h"
#include "mezzo/kernels/swiglu/swiglu.h"

namespace mezzo::kernels {
namespace {

constexpr int64_t kGrain = 1 << 14;

template <class T>
MEZZO_INLINE void swiglu_row(const T* gate, const T* up, T* y, int64_t C) {
  for (int64_t i = 0; i < C; ++i) {
    const float g = wide(gate[i]);
    y[i] = narrow<T>(g * sigmoid_of(g).value * wide(up[i]));
  }
}

/// y: silu(gate) * up again, if `again`.
template <class T, bool again>
MEZZO_INLINE void swiglu_grad_row(const T* grad, const T* gate, const T* up, T* grad_gate,
                                  T* grad_up, T* y, int64_t C) {
#pragma omp simd
  for (int64_t i = 0; i < C; ++i) {
    const float g = wide(gate[i]);
    const Sigmoid s = sigmoid_of(g);
    grad_gate[i] = narrow<T>(wide(grad[i]) * wide(up[i]) * (s.value + g * s.slope));
    grad_up[i] = narrow<T>(wide(grad[i]) * (g * s.value));
    if constexpr (again) y[i] = narrow<T>(g * s.value * wide(up[i]));
  }
}

/// work(row) on each of `rows` of C channels. Rows are no loop of the vector code: within one the
/// compiler makes branches of fp16's conversions, and no vectors.
template <class Work>
void over_rows(int64_t rows, int64_t C, const Work& work) {
  const int64_t grain = std::max<int64_t>(1, kGrain / std::max<int64_t>(1, C));
  at::parallel_for(0, rows, grain, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) work(row);
  });
}

}  // namespace

at::Tensor cpu::swiglu(const at::Tensor& gate_up_in) {
  const at::Tensor gate_up = gate_up_in.contiguous();
  std::vector<int64_t> sizes = gate_up.sizes().vec();
  const int64_t C = sizes.back() /= 2;
  at::Tensor y = at::empty(sizes, gate_up.options());
  with_type(gate_up, [&]<class T>(T) {
    const T* from = gate_up.const_data_ptr<T>();
    T* to = y.mutable_data_ptr<T>();
    over_rows(C == 0 ? 0 : y.numel() / C, C, [&](int64_t row) {
      const T* gate = from + row * 2 * C;
      simd<swiglu_row<T>>(gate, gate + C, to + row * C, C);
    });
  });
  return y;
}

at::Tensor cpu::swiglu_backward(const at::Tensor& grad_in, const at::Tensor& gate_up_in,
                                at::Tensor* again) {
  const at::Tensor gate_up = gate_up_in.contiguous(), grad = grad_in.contiguous();
  const int64_t C = gate_up.size(-1) / 2;
  at::Tensor grad_gate_up = at::empty_like(gate_up);
  if (again != nullptr) *again = at::empty_like(grad);
  with_type(gate_up, [&]<class T>(T) {
    const T *from = gate_up.const_data_ptr<T>(), *of_y = grad.const_data_ptr<T>();
    T* to = grad_gate_up.mutable_data_ptr<T>();
    T* y = again != nullptr ? again->mutable_data_ptr<T>() : nullptr;
    over_rows(C == 0 ? 0 : grad.numel() / C, C, [&](int64_t row) {
      const T* gate = from + row * 2 * C;
      const T* grad_y = of_y + row * C;
      T* grad_gate = to + row * 2 * C;
      if (y == nullptr) {
        simd<swiglu_grad_row<T, false>>(grad_y, gate, gate + C, grad_gate, grad_gate + C, y, C);
      } else {
        simd<swiglu_grad_row<T, true>>(grad_y, gate, gate + C, grad_gate, grad_gate + C,
                                       y + row * C, C);
      }
    });
  });
  return grad_gate_up;
}

}  // namespace mezzo::kernels
