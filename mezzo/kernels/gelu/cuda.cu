#include "mezzo/kernels/cuda/elementwise.cuh"
#include "mezzo/kernels/cuda/gates.cuh"
#include "mezzo/kernels/gelu/cuda.h"

namespace mezzo::kernels::cuda {
namespace {

constexpr float kTwiceRootTwoOverPi = 1.5957691216f;
constexpr float kCube = 0.044715f;

__device__ __forceinline__ float twice_u(float x) {
  return kTwiceRootTwoOverPi * (x + kCube * x * x * x);
}

template <class T>
struct Gelu {
  __device__ float operator()(float x) const { return x * sigmoid_of<T>(twice_u(x)).value; }
};

template <class T>
struct GeluGrad {
  __device__ float operator()(float grad, float x) const {
    const Sigmoid s = sigmoid_of<T>(twice_u(x));
    const float slope_of_2u = kTwiceRootTwoOverPi * (1.0f + 3.0f * kCube * x * x);
    // Where the sigmoid has reached 0 or 1, slope_of_2u may be Inf, and 0 x Inf a NaN.
    const float bend = s.slope == 0.0f ? 0.0f : x * s.slope * slope_of_2u;
    return grad * (s.value + bend);
  }
};

}  // namespace

void launch_gelu(const void* x, void* y, int64_t N, Number number, void* stream) {
  with_number(number, [&]<class T>(T) {
    elementwise(Gelu<T>{}, static_cast<T*>(y), N, stream, static_cast<const T*>(x));
  });
}

void launch_gelu_backward(const void* grad, const void* x, void* grad_x, int64_t N, Number number,
                          void* stream) {
  with_number(number, [&]<class T>(T) {
    elementwise(GeluGrad<T>{}, static_cast<T*>(grad_x), N, stream, static_cast<const T*>(grad),
                static_cast<const T*>(x));
  });
}

}  // namespace mezzo::kernels::cuda
