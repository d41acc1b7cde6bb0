#include "mezzo/kernels/cuda/gates.cuh"
#include "mezzo/kernels/gelu/cuda.h"

// A thread takes 16 bytes of each tensor, and the last one what is left.

namespace mezzo::kernels::cuda {
namespace {

constexpr int kThreads = 256;

constexpr float kTwiceRootTwoOverPi = 1.5957691216f;
constexpr float kCube = 0.044715f;

__device__ __forceinline__ float twice_u(float x) {
  return kTwiceRootTwoOverPi * (x + kCube * x * x * x);
}

template <int Width, class T>
__device__ __forceinline__ void gelu_at(int64_t at, const T* x_in, T* y) {
  const auto x = load<Width>(x_in + at);
  Pack<T, Width> out;
#pragma unroll
  for (int k = 0; k < Width; ++k)
    out.at[k] = narrow<T>(wide(x.at[k]) * sigmoid_of<T>(twice_u(wide(x.at[k]))).value);
  store(y + at, out);
}

template <class T>
__global__ void gelu_loop(const T* x, T* y, int64_t N) {
  constexpr int kWidth = 16 / sizeof(T);
  const int64_t at = kWidth * (int64_t{blockIdx.x} * blockDim.x + threadIdx.x);
  if (at + kWidth <= N) return gelu_at<kWidth>(at, x, y);
  for (int64_t i = at; i < N; ++i) gelu_at<1>(i, x, y);
}

template <int Width, class T>
__device__ __forceinline__ void gelu_grad_at(int64_t at, const T* grad_in, const T* x_in, T* grad_x,
                                             T* y) {
  const auto grad = load<Width>(grad_in + at), from = load<Width>(x_in + at);
  Pack<T, Width> out, again;
#pragma unroll
  for (int k = 0; k < Width; ++k) {
    const float x = wide(from.at[k]);
    const Sigmoid s = sigmoid_of<T>(twice_u(x));
    const float slope_of_2u = kTwiceRootTwoOverPi * (1.0f + 3.0f * kCube * x * x);
    // Where the sigmoid has reached 0 or 1, slope_of_2u may be Inf, and 0 x Inf a NaN.
    const float bend = s.slope == 0.0f ? 0.0f : x * s.slope * slope_of_2u;
    out.at[k] = narrow<T>(wide(grad.at[k]) * (s.value + bend));
    again.at[k] = narrow<T>(x * s.value);
  }
  store(grad_x + at, out);
  if (y != nullptr) store(y + at, again);
}

template <class T>
__global__ void gelu_grad_loop(const T* grad, const T* x, T* grad_x, T* y, int64_t N) {
  constexpr int kWidth = 16 / sizeof(T);
  const int64_t at = kWidth * (int64_t{blockIdx.x} * blockDim.x + threadIdx.x);
  if (at + kWidth <= N) return gelu_grad_at<kWidth>(at, grad, x, grad_x, y);
  for (int64_t i = at; i < N; ++i) gelu_grad_at<1>(i, grad, x, grad_x, y);
}

/// Blocks for N numbers of T.
template <class T>
int64_t blocks_for(int64_t N) {
  return ceil_div(N, kThreads * (16 / static_cast<int64_t>(sizeof(T))));
}

}  // namespace

void launch_gelu(const void* x, void* y, int64_t N, DType dtype, void* stream) {
  if (N == 0) return;
  with_dtype(dtype, [&]<class T>(T) {
    launch(gelu_loop<T>, blocks_for<T>(N), kThreads, stream, static_cast<const T*>(x),
           static_cast<T*>(y), N);
  });
}

void launch_gelu_backward(const void* grad, const void* x, void* grad_x, void* y, int64_t N,
                          DType dtype, void* stream) {
  if (N == 0) return;
  with_dtype(dtype, [&]<class T>(T) {
    launch(gelu_grad_loop<T>, blocks_for<T>(N), kThreads, stream, static_cast<const T*>(grad),
           static_cast<const T*>(x), static_cast<T*>(grad_x), static_cast<T*>(y), N);
  });
}

}  // namespace mezzo::kernels::cuda
