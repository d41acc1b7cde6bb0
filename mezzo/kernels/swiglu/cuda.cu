#include "mezzo/kernels/cuda/gates.cuh"
#include "mezzo/kernels/swiglu/cuda.h"

namespace mezzo::kernels::cuda {
namespace {

constexpr int kThreads = 256;

/// Width: numbers of one access; C is a multiple of it.
template <class T, int Width>
__global__ void swiglu_loop(const T* gate_up, T* y, int64_t N, int64_t C) {
  const int64_t at = Width * (int64_t{blockIdx.x} * blockDim.x + threadIdx.x);
  if (at >= N) return;
  const int64_t row = at / C, from = row * 2 * C + (at - row * C);
  const auto gate = load<Width>(gate_up + from), up = load<Width>(gate_up + from + C);
  Pack<T, Width> out;
#pragma unroll
  for (int k = 0; k < Width; ++k) {
    const float g = wide(gate.at[k]);
    out.at[k] = narrow<T>(g * sigmoid_of<T>(g).value * wide(up.at[k]));
  }
  store(y + at, out);
}

template <class T, int Width>
__global__ void swiglu_grad_loop(const T* grad_y, const T* gate_up, T* grad_gate_up, T* y,
                                 int64_t N, int64_t C) {
  const int64_t at = Width * (int64_t{blockIdx.x} * blockDim.x + threadIdx.x);
  if (at >= N) return;
  const int64_t row = at / C, from = row * 2 * C + (at - row * C);
  const auto gate = load<Width>(gate_up + from), up = load<Width>(gate_up + from + C);
  const auto grad = load<Width>(grad_y + at);
  Pack<T, Width> grad_gate, grad_up, again;
#pragma unroll
  for (int k = 0; k < Width; ++k) {
    const float g = wide(gate.at[k]);
    const Sigmoid s = sigmoid_of<T>(g);
    grad_gate.at[k] = narrow<T>(wide(grad.at[k]) * wide(up.at[k]) * (s.value + g * s.slope));
    grad_up.at[k] = narrow<T>(wide(grad.at[k]) * (g * s.value));
    again.at[k] = narrow<T>(g * s.value * wide(up.at[k]));
  }
  store(grad_gate_up + from, grad_gate);
  store(grad_gate_up + from + C, grad_up);
  if (y != nullptr) store(y + at, again);
}

/// f(T{}, integral constant Width): 16 bytes at a time where a row is made of whole ones.
template <class F>
void with_width(DType dtype, int64_t C, F&& f) {
  with_dtype(dtype, [&]<class T>(T) {
    constexpr int kWidth = 16 / sizeof(T);
    if (C % kWidth == 0) return f(T{}, std::integral_constant<int, kWidth>{});
    f(T{}, std::integral_constant<int, 1>{});
  });
}

}  // namespace

void launch_swiglu(const void* gate_up, void* y, int64_t rows, int64_t C, DType dtype,
                   void* stream) {
  if (rows * C == 0) return;
  with_width(dtype, C, [&]<class T, int Width>(T, std::integral_constant<int, Width>) {
    launch(swiglu_loop<T, Width>, ceil_div(rows * C, Width * kThreads), kThreads, stream,
           static_cast<const T*>(gate_up), static_cast<T*>(y), rows * C, C);
  });
}

void launch_swiglu_backward(const void* grad, const void* gate_up, void* grad_gate_up, void* y,
                            int64_t rows, int64_t C, DType dtype, void* stream) {
  if (rows * C == 0) return;
  with_width(dtype, C, [&]<class T, int Width>(T, std::integral_constant<int, Width>) {
    launch(swiglu_grad_loop<T, Width>, ceil_div(rows * C, Width * kThreads), kThreads, stream,
           static_cast<const T*>(grad), static_cast<const T*>(gate_up),
           static_cast<T*>(grad_gate_up), static_cast<T*>(y), rows * C, C);
  });
}

}  // namespace mezzo::kernels::cuda
