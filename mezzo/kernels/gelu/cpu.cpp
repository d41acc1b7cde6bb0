#include <ATen/Parallel.h>
#include <ATen/ops/empty_like.h>

#include "mezzo/kernels/gelu/gelu.h"
#include "mezzo/kernels/simd/numbers.h"
#include "mezzo/kernels/simd/with_type.h"

namespace mezzo::kernels {
namespace {

constexpr float kTwiceRootTwoOverPi = 1.5957691216f;
constexpr float kCube = 0.044715f;
constexpr int64_t kGrain = 1 << 14;

MEZZO_INLINE float twice_u(float x) { return kTwiceRootTwoOverPi * (x + kCube * x * x * x); }

template <class T>
MEZZO_INLINE void gelu_loop(const T* x, T* y, int64_t N) {
  for (int64_t i = 0; i < N; ++i)
    y[i] = narrow<T>(wide(x[i]) * sigmoid_of(twice_u(wide(x[i]))).value);
}

/// y: gelu(x) again, if `again`.
template <class T, bool again>
MEZZO_INLINE void gelu_grad_loop(const T* grad, const T* x_in, T* grad_x, T* y, int64_t N) {
#pragma omp simd
  for (int64_t i = 0; i < N; ++i) {
    const float x = wide(x_in[i]);
    const Sigmoid s = sigmoid_of(twice_u(x));
    const float slope_of_2u = kTwiceRootTwoOverPi * (1.0f + 3.0f * kCube * x * x);
    // Where the sigmoid has reached 0 or 1, slope_of_2u may be Inf, and 0 x Inf a NaN.
    const float bend = s.slope == 0.0f ? 0.0f : x * s.slope * slope_of_2u;
    grad_x[i] = narrow<T>(wide(grad[i]) * (s.value + bend));
    if constexpr (again) y[i] = narrow<T>(x * s.value);
  }
}

}  // namespace

at::Tensor cpu::tanh_gelu(const at::Tensor& x_in) {
  const at::Tensor x = x_in.contiguous();
  at::Tensor y = at::empty_like(x);
  with_type(x, [&]<class T>(T) {
    at::parallel_for(0, x.numel(), kGrain, [&](int64_t begin, int64_t end) {
      simd<gelu_loop<T>>(x.const_data_ptr<T>() + begin, y.mutable_data_ptr<T>() + begin,
                         end - begin);
    });
  });
  return y;
}

at::Tensor cpu::tanh_gelu_backward(const at::Tensor& grad_in, const at::Tensor& x_in,
                                   at::Tensor* again) {
  const at::Tensor x = x_in.contiguous(), grad = grad_in.contiguous();
  at::Tensor grad_x = at::empty_like(x);
  if (again != nullptr) *again = at::empty_like(x);
  with_type(x, [&]<class T>(T) {
    const T *from = x.const_data_ptr<T>(), *of_y = grad.const_data_ptr<T>();
    T* to = grad_x.mutable_data_ptr<T>();
    T* y = again != nullptr ? again->mutable_data_ptr<T>() : nullptr;
    at::parallel_for(0, x.numel(), kGrain, [&](int64_t i, int64_t end) {
      if (y == nullptr) {
        simd<gelu_grad_loop<T, false>>(of_y + i, from + i, to + i, y, end - i);
      } else {
        simd<gelu_grad_loop<T, true>>(of_y + i, from + i, to + i, y + i, end - i);
      }
    });
  });
  return grad_x;
}

}  // namespace mezzo::kernels
