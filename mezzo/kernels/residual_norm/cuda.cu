#include "mezzo/kernels/cuda/numbers.cuh"
#include "mezzo/kernels/residual_norm/cuda.h"

// A block holds a row in its registers, four numbers a thread and `Items` times over: memory is
// read once.

namespace mezzo::kernels::cuda {
namespace {

template <class T>
__device__ __forceinline__ void load_wide(const void* base, int64_t at, float (&to)[4]) {
  const auto four = load<4>(static_cast<const T*>(base) + at);
  for (int k = 0; k < 4; ++k) to[k] = wide(four.at[k]);
}

template <class T>
__device__ __forceinline__ void store_narrow(void* base, int64_t at, const float (&from)[4]) {
  Pack<T, 4> four;
  for (int k = 0; k < 4; ++k) four.at[k] = narrow<T>(from[k]);
  store(static_cast<T*>(base) + at, four);
}

/// unit: (sum - mean) * rstd. bias: null, or the row's.
template <class O>
__device__ __forceinline__ void store_normed(void* normed, int64_t at, const float (&unit)[4],
                                             const float (&weight)[4], const float* bias,
                                             int64_t column) {
  float added[4] = {}, out[4];
  if (bias != nullptr) load_wide<float>(bias, column, added);
  for (int k = 0; k < 4; ++k) out[k] = unit[k] * weight[k] + added[k];
  store_narrow<O>(normed, at, out);
}

template <class O>
__device__ __forceinline__ void normalise(const NormRows& a, int64_t at, int64_t column, float mean,
                                          float rstd, const float (&sum)[4]) {
  float weight[4], unit[4];
  load_wide<float>(a.weight, column, weight);
  for (int k = 0; k < 4; ++k) unit[k] = (sum[k] - mean) * rstd;
  store_normed<O>(a.normed, at, unit, weight, a.bias, column);
}

template <class T, class B, class O, int Items>
__global__ void norm_rows(NormRows a) {
  __shared__ float scratch[kWarp];
  const int64_t row = blockIdx.x, first = row * a.C;
  float x[Items][4] = {};
  float total = 0.0f;
#pragma unroll
  for (int item = 0; item < Items; ++item) {
    const int64_t column = 4 * (threadIdx.x + int64_t{item} * blockDim.x);
    if (column >= a.C) continue;
    load_wide<T>(a.x, first + column, x[item]);
    if (a.branch != nullptr) {
      float branch[4];
      load_wide<B>(a.branch, first + column, branch);
      // Rounded to the stream's dtype before it is normalised, as two ops would.
      for (int k = 0; k < 4; ++k) x[item][k] = wide(narrow<T>(x[item][k] + branch[k]));
      store_narrow<T>(a.sum, first + column, x[item]);
    }
    total += (x[item][0] + x[item][1]) + (x[item][2] + x[item][3]);
  }
  const float mean = a.mean == nullptr ? 0.0f : block_sum(total, scratch) / static_cast<float>(a.C);
  float squares = 0.0f;
#pragma unroll
  for (int item = 0; item < Items; ++item) {
    const int64_t column = 4 * (threadIdx.x + int64_t{item} * blockDim.x);
    if (column >= a.C) continue;
    for (int k = 0; k < 4; ++k) squares += (x[item][k] - mean) * (x[item][k] - mean);
  }
  const float rstd = 1.0f / sqrtf(block_sum(squares, scratch) / static_cast<float>(a.C) + a.eps);
  if (threadIdx.x == 0) {
    if (a.mean != nullptr) a.mean[row] = mean;
    a.rstd[row] = rstd;
  }
#pragma unroll
  for (int item = 0; item < Items; ++item) {
    const int64_t column = 4 * (threadIdx.x + int64_t{item} * blockDim.x);
    if (column < a.C) normalise<O>(a, first + column, column, mean, rstd, x[item]);
  }
}

template <class T, class O>
__global__ void norm_again(NormRows a) {
  const int64_t row = blockIdx.x, first = row * a.C;
  const float mean = a.mean == nullptr ? 0.0f : a.mean[row], rstd = a.rstd[row];
  for (int64_t column = 4 * int64_t{threadIdx.x}; column < a.C; column += 4 * int64_t{blockDim.x}) {
    float sum[4];
    load_wide<T>(a.sum, first + column, sum);
    normalise<O>(a, first + column, column, mean, rstd, sum);
  }
}

// A block takes every gridDim.x-th row, and keeps its columns' share of the weight's and the bias's
// gradient in registers: the order of the sums is fixed.
template <class T, class O, int Items>
__global__ void norm_grad_rows(NormGradRows a) {
  __shared__ float scratch[kWarp];
  float grad_weight[Items][4] = {}, grad_bias[Items][4] = {};
  const float per_element = 1.0f / static_cast<float>(a.C);
  for (int64_t row = blockIdx.x; row < a.rows; row += gridDim.x) {
    const int64_t first = row * a.C;
    const float mean = a.mean == nullptr ? 0.0f : a.mean[row], rstd = a.rstd[row];
    float weighted[Items][4] = {}, unit[Items][4] = {};
    float along_one = 0.0f, along_unit = 0.0f;
#pragma unroll
    for (int item = 0; item < Items; ++item) {
      const int64_t column = 4 * (threadIdx.x + int64_t{item} * blockDim.x);
      if (column >= a.C) continue;
      float grad[4], weight[4];
      load_wide<O>(a.grad_normed, first + column, grad);
      load_wide<T>(a.sum, first + column, unit[item]);
      load_wide<float>(a.weight, column, weight);
      for (int k = 0; k < 4; ++k) {
        unit[item][k] = (unit[item][k] - mean) * rstd;
        weighted[item][k] = grad[k] * weight[k];
        grad_weight[item][k] += grad[k] * unit[item][k];
        grad_bias[item][k] += grad[k];
        along_one += weighted[item][k];
        along_unit += weighted[item][k] * unit[item][k];
      }
      if (a.normed != nullptr)
        store_normed<O>(a.normed, first + column, unit[item], weight, a.bias, column);
    }
    along_one = a.mean == nullptr ? 0.0f : block_sum(along_one, scratch) * per_element;
    along_unit = block_sum(along_unit, scratch) * per_element;
#pragma unroll
    for (int item = 0; item < Items; ++item) {
      const int64_t column = 4 * (threadIdx.x + int64_t{item} * blockDim.x);
      if (column >= a.C) continue;
      float grad_x[4] = {};
      if (a.grad_sum != nullptr) load_wide<T>(a.grad_sum, first + column, grad_x);
      for (int k = 0; k < 4; ++k) {
        grad_x[k] += rstd * (weighted[item][k] - along_one - unit[item][k] * along_unit);
        grad_x[k] = wide(narrow<T>(grad_x[k]));
      }
      store_narrow<T>(a.grad_x, first + column, grad_x);
      if (a.grad_branch != nullptr) store_narrow<O>(a.grad_branch, first + column, grad_x);
    }
  }
#pragma unroll
  for (int item = 0; item < Items; ++item) {
    const int64_t column = 4 * (threadIdx.x + int64_t{item} * blockDim.x);
    if (column >= a.C) continue;
    store_narrow<float>(a.partials, int64_t{blockIdx.x} * a.C + column, grad_weight[item]);
    store_narrow<float>(a.partials, (int64_t{gridDim.x} + blockIdx.x) * a.C + column,
                        grad_bias[item]);
  }
}

/// f(integral constant) for 1, 2, 4 and 8 items.
template <class F>
void with_items(int items, F&& f) {
  switch (items) {
    case 1:
      return f(std::integral_constant<int, 1>{});
    case 2:
      return f(std::integral_constant<int, 2>{});
    case 4:
      return f(std::integral_constant<int, 4>{});
    default:
      return f(std::integral_constant<int, 8>{});
  }
}

/// f(T{}, O{}): a stream of 32 bits takes any output, one of 16 bits its own.
template <class F>
void with_numbers(Number stream_number, Number out, F&& f) {
  with_number(stream_number, [&]<class T>(T) {
    if constexpr (std::is_same_v<T, float>) {
      with_number(out, [&]<class O>(O) { f(T{}, O{}); });
    } else {
      f(T{}, T{});
    }
  });
}

}  // namespace

void launch_norm_rows(const NormRows& a, void* stream) {
  const RowLayout layout = row_layout(a.C);
  with_numbers(a.stream_number, a.out, [&]<class T, class O>(T, O) {
    with_items(layout.items, [&]<int Items>(std::integral_constant<int, Items>) {
      if (a.branch_number == a.out) {
        launch(norm_rows<T, O, O, Items>, a.rows, layout.threads, stream, a);
      } else {
        launch(norm_rows<T, float, O, Items>, a.rows, layout.threads, stream, a);
      }
    });
  });
}

void launch_norm_again(const NormRows& a, void* stream) {
  const int threads = row_layout(a.C).threads;
  with_numbers(a.stream_number, a.out, [&]<class T, class O>(T, O) {
    launch(norm_again<T, O>, a.rows, threads, stream, a);
  });
}

void launch_norm_grad_rows(const NormGradRows& a, void* stream) {
  const RowLayout layout = row_layout(a.C);
  with_numbers(a.stream_number, a.out, [&]<class T, class O>(T, O) {
    with_items(layout.items, [&]<int Items>(std::integral_constant<int, Items>) {
      launch(norm_grad_rows<T, O, Items>, a.blocks, layout.threads, stream, a);
    });
  });
}

}  // namespace mezzo::kernels::cuda
