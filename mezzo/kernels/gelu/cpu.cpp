#include <ATen/Parallel.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/gelu_backward.h>

#include "mezzo/kernels/cuda/flavour.h"
#include "mezzo/kernels/cuda/stream.h"
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

template <class T>
MEZZO_INLINE void gelu_grad_loop(const T* grad, const T* x_in, T* grad_x, int64_t N) {
  for (int64_t i = 0; i < N; ++i) {
    const float x = wide(x_in[i]);
    const Sigmoid s = sigmoid_of(twice_u(x));
    const float slope_of_2u = kTwiceRootTwoOverPi * (1.0f + 3.0f * kCube * x * x);
    // Where the sigmoid has reached 0 or 1, slope_of_2u may be Inf, and 0 x Inf a NaN.
    const float bend = s.slope == 0.0f ? 0.0f : x * s.slope * slope_of_2u;
    grad_x[i] = narrow<T>(wide(grad[i]) * (s.value + bend));
  }
}

}  // namespace

at::Tensor tanh_gelu(const at::Tensor& x_in) {
  if constexpr (kHasCuda) {
    if (cuda::takes(x_in)) return cuda::tanh_gelu(x_in);
  }
  const at::Tensor x = x_in.contiguous();
  at::Tensor y = at::empty_like(x);
  const bool is_done = with_type(x, [&]<class T>(T) {
    at::parallel_for(0, x.numel(), kGrain, [&](int64_t begin, int64_t end) {
      simd<gelu_loop<T>>(x.const_data_ptr<T>() + begin, y.mutable_data_ptr<T>() + begin,
                         end - begin);
    });
  });
  return is_done ? y : at::gelu(x_in, "tanh");
}

at::Tensor tanh_gelu_backward(const at::Tensor& grad_in, const at::Tensor& x_in) {
  if constexpr (kHasCuda) {
    if (cuda::takes(x_in)) return cuda::tanh_gelu_backward(grad_in, x_in);
  }
  const at::Tensor x = x_in.contiguous(), grad = grad_in.contiguous();
  at::Tensor grad_x = at::empty_like(x);
  const bool is_done = with_type(x, [&]<class T>(T) {
    at::parallel_for(0, x.numel(), kGrain, [&](int64_t begin, int64_t end) {
      simd<gelu_grad_loop<T>>(grad.const_data_ptr<T>() + begin, x.const_data_ptr<T>() + begin,
                              grad_x.mutable_data_ptr<T>() + begin, end - begin);
    });
  });
  return is_done ? grad_x : at::gelu_backward(grad_in, x_in, "tanh");
}

}  // namespace mezzo::kernels
