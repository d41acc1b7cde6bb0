#include "mezzo/kernels/norm/norm.h"

#include <algorithm>
#include <cmath>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/linalg_vector_norm.h>

#include "mezzo/base/check.h"
#include "mezzo/kernels/blocks.h"
#include "mezzo/kernels/simd/numbers.h"

namespace mezzo::kernels {
namespace {

constexpr int64_t kBlock = 4096;
// Partial sums side by side, so many in every instruction set: the order of additions is fixed.
constexpr int64_t kLanes = 32;

template <class T>
MEZZO_INLINE double sum_of_squares(const T* x, int64_t N) {
  double sums[kLanes] = {};
  const int64_t whole = N - N % kLanes;
  for (int64_t i = 0; i < whole; i += kLanes) {
#pragma omp simd
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      const double here = wide(x[i + lane]);
      sums[lane] += here * here;
    }
  }
  for (int64_t i = whole; i < N; ++i) {
    const double here = wide(x[i]);
    sums[i - whole] += here * here;
  }
  double sum = 0.0;
  for (int64_t lane = 0; lane < kLanes; ++lane) sum += sums[lane];
  return sum;
}

double sum_of_squares(const at::Tensor& tensor, int64_t begin, int64_t N) {
  switch (tensor.scalar_type()) {
    case at::kBFloat16:
      return simd<sum_of_squares<c10::BFloat16>>(tensor.const_data_ptr<c10::BFloat16>() + begin, N);
    case at::kHalf:
      return simd<sum_of_squares<c10::Half>>(tensor.const_data_ptr<c10::Half>() + begin, N);
    default:
      return simd<sum_of_squares<float>>(tensor.const_data_ptr<float>() + begin, N);
  }
}

double norm_on_cpu(const std::vector<at::Tensor>& tensors) {
  Blocks blocks(kBlock);
  for (const at::Tensor& tensor : tensors) blocks.add(tensor.numel());
  std::vector<double> sums(static_cast<size_t>(blocks.count()));
  blocks.share_out([&](size_t i, int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) {
      const int64_t from = (block - blocks.first(i)) * kBlock;
      sums[static_cast<size_t>(block)] =
          sum_of_squares(tensors[i], from, std::min(kBlock, tensors[i].numel() - from));
    }
  });
  double sum = 0.0;
  for (const double block : sums) sum += block;
  return std::sqrt(sum);
}

}  // namespace

double l2_norm(const std::vector<at::Tensor>& tensors) {
  const at::NoGradGuard no_grad;
  std::vector<at::Tensor> dense;
  dense.reserve(tensors.size());
  bool is_cpu = true;
  for (const at::Tensor& tensor : tensors) {
    const auto dtype = tensor.scalar_type();
    MEZZO_CHECK(dtype == at::kFloat || dtype == at::kBFloat16 || dtype == at::kHalf, "l2_norm",
                "a tensor must be fp32, bf16 or fp16, but is {}", c10::toString(dtype));
    dense.push_back(tensor.is_non_overlapping_and_dense() ? tensor : tensor.contiguous());
    is_cpu = is_cpu && tensor.is_cpu();
  }
  return is_cpu ? norm_on_cpu(dense) : reference::l2_norm(tensors);
}

double reference::l2_norm(const std::vector<at::Tensor>& tensors) {
  const at::NoGradGuard no_grad;
  double squares = 0.0;
  for (const at::Tensor& tensor : tensors) {
    squares += tensor.to(at::kDouble).square().sum().item<double>();
  }
  return std::sqrt(squares);
}

}  // namespace mezzo::kernels
