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

/// unit: (sum - mean) * rstd. Rows: NormRows or NormGradRows.
template <class O, class Rows>
__device__ __forceinline__ void store_normed(const Rows& a, int64_t at, int64_t column,
                                             const float (&unit)[4]) {
  float weight[4], bias[4] = {}, normed[4];
  load_wide<float>(a.weight, column, weight);
  if (a.bias != nullptr) load_wide<float>(a.bias, column, bias);
  for (int k = 0; k < 4; ++k) normed[k] = unit[k] * weight[k] + bias[k];
  store_narrow<O>(a.normed, at, normed);
}

template <class O>
__device__ __forceinline__ void normalise(const NormRows& a, int64_t at, int64_t column, float mean,
                                          float rstd, const float (&sum)[4]) {
  float unit[4];
  for (int k = 0; k < 4; ++k) unit[k] = (sum[k] - mean) * rstd;
  store_normed<O>(a, at, column, unit);
}

template <class T, class B, class O, int Items>
__global__ void norm_rows(NormRows a) {
  __shared__ float scratch[1][kWarp];
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
  __shared__ float scratch[2][kWarp];
  float grad_weight[Items][4] = {}, grad_bias[Items][4] = {};
  const float per_element = 1.0f / static_cast<float>(a.C);
  for (int64_t row = blockIdx.x; row < a.rows; row += gridDim.x) {
    const int64_t first = row * a.C;
    const float mean = a.mean == nullptr ? 0.0f : a.mean[row], rstd = a.rstd[row];
    float weighted[Items][4] = {}, unit[Items][4] = {}, grad_x[Items][4] = {};
    float along_one = 0.0f, along_unit = 0.0f;
#pragma unroll
    for (int item = 0; item < Items; ++item) {
      const int64_t column = 4 * (threadIdx.x + int64_t{item} * blockDim.x);
      if (column >= a.C) continue;
      float grad[4], weight[4];
      load_wide<O>(a.grad_normed, first + column, grad);
      load_wide<T>(a.sum, first + column, unit[item]);
      load_wide<float>(a.weight, column, weight);
      if (a.grad_sum != nullptr) load_wide<T>(a.grad_sum, first + column, grad_x[item]);
      for (int k = 0; k < 4; ++k) {
        unit[item][k] = (unit[item][k] - mean) * rstd;
        weighted[item][k] = grad[k] * weight[k];
        grad_weight[item][k] += grad[k] * unit[item][k];
        grad_bias[item][k] += grad[k];
        along_one += weighted[item][k];
        along_unit += weighted[item][k] * unit[item][k];
      }
    }
    float along[2] = {along_one, along_unit};
    block_sums(along, scratch);
    along_one = a.mean == nullptr ? 0.0f : along[0] * per_element;
    along_unit = along[1] * per_element;
#pragma unroll
    for (int item = 0; item < Items; ++item) {
      const int64_t column = 4 * (threadIdx.x + int64_t{item} * blockDim.x);
      if (column >= a.C) continue;
      for (int k = 0; k < 4; ++k) {
        grad_x[item][k] += rstd * (weighted[item][k] - along_one - unit[item][k] * along_unit);
        grad_x[item][k] = wide(narrow<T>(grad_x[item][k]));
      }
      store_narrow<T>(a.grad_x, first + column, grad_x[item]);
      if (a.grad_branch != nullptr) store_narrow<O>(a.grad_branch, first + column, grad_x[item]);
      if (a.normed != nullptr) store_normed<O>(a, first + column, column, unit[item]);
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
void with_dtypes(DType stream_dtype, DType out, F&& f) {
  with_dtype(stream_dtype, [&]<class T>(T) {
    if constexpr (std::is_same_v<T, float>) {
      with_dtype(out, [&]<class O>(O) { f(T{}, O{}); });
    } else {
      f(T{}, T{});
    }
  });
}

}  // namespace

void launch_norm_rows(const NormRows& a, void* stream) {
  const RowLayout layout = row_layout(a.C);
  with_dtypes(a.stream_dtype, a.out, [&]<class T, class O>(T, O) {
    with_items(layout.items, [&]<int Items>(std::integral_constant<int, Items>) {
      if (a.branch_dtype == a.out) {
        launch(norm_rows<T, O, O, Items>, a.rows, layout.threads, stream, a);
      } else {
        launch(norm_rows<T, float, O, Items>, a.rows, layout.threads, stream, a);
      }
    });
  });
}

void launch_norm_again(const NormRows& a, void* stream) {
  const int threads = row_layout(a.C).threads;
  with_dtypes(a.stream_dtype, a.out, [&]<class T, class O>(T, O) {
    launch(norm_again<T, O>, a.rows, threads, stream, a);
  });
}

void launch_norm_grad_rows(const NormGradRows& a, void* stream) {
  const RowLayout layout = row_layout(a.C);
  with_dtypes(a.stream_dtype, a.out, [&]<class T, class O>(T, O) {
    with_items(layout.items, [&]<int Items>(std::integral_constant<int, Items>) {
      launch(norm_grad_rows<T, O, Items>, a.blocks, layout.threads, stream, a);
    });
  });
}

int resident_norm_grad_blocks(int64_t C, DType stream_dtype, DType out) {
  const RowLayout layout = row_layout(C);
  int blocks = 0;
  with_dtypes(stream_dtype, out, [&]<class T, class O>(T, O) {
    with_items(layout.items, [&]<int Items>(std::integral_constant<int, Items>) {
      blocks = resident_blocks(norm_grad_rows<T, O, Items>, layout.threads);
    });
  });
  return blocks;
}

}  // namespace mezzo::kernels::cuda
