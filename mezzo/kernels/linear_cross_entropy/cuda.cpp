// linear_cross_entropy on a GPU: cuBLAS' products by chunks of rows, and one kernel between them.

#include "mezzo/kernels/linear_cross_entropy/cuda.h"

#include <algorithm>

#include <ATen/ops/addmm.h>
#include <ATen/ops/div.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>

#include "mezzo/kernels/cuda/launch.h"
#include "mezzo/kernels/cuda/launch_guard.h"
#include "mezzo/kernels/cuda/tensors.h"
#include "mezzo/kernels/linear_cross_entropy/chunked.h"

namespace mezzo::kernels {
namespace {

// Of a chunk's logits: 8192 rows of a vocabulary of 50304 in 16 bits, at which products have
// reached their rate, are 786 MiB.
constexpr int64_t kChunkBytes = int64_t{800} << 20;
constexpr int64_t kTile = 256;  // rows of which products like a multiple

int64_t rows_a_chunk(const at::Tensor& rows, int64_t V) {
  const int64_t most = kChunkBytes / (V * rows.element_size());
  return std::max(kTile, most / kTile * kTile);
}

/// sum = a b, or sum += a b, in fp32 whatever the dtype of a and b.
void product_into(at::Tensor sum, const at::Tensor& a, const at::Tensor& b, bool adds) {
  if (a.scalar_type() == at::kFloat) {
    adds ? at::addmm_out(sum, sum, a, b) : at::mm_out(sum, a, b);
  } else {
    adds ? at::addmm_out(sum, sum, a, b, at::kFloat) : at::mm_out(sum, a, b, at::kFloat);
  }
}

}  // namespace

LossAndGradients cuda::linear_cross_entropy(const at::Tensor& x, const at::Tensor& weight_in,
                                            const at::Tensor& targets_in,
                                            const LinearCrossEntropyOptions& options,
                                            GradientsWanted wanted) {
  const cuda::LaunchGuard launch(x);
  const int64_t V = weight_in.size(0), C = weight_in.size(1);
  const at::Tensor rows = x.reshape({-1, C}).contiguous(), weight = weight_in.contiguous();
  const at::Tensor targets = targets_in.reshape(-1).contiguous();
  const int64_t N = rows.size(0), step = rows_a_chunk(rows, V);
  const auto fp32 = rows.options().dtype(at::kFloat);
  const at::Tensor losses = at::empty({N}, fp32);
  LossAndGradients result;
  if (wanted.x) result.grad_x = at::empty({N, C}, fp32);
  if (wanted.weight)
    result.grad_weight = N == 0 ? at::zeros({V, C}, fp32) : at::empty({V, C}, fp32);
  for (int64_t begin = 0; begin < N; begin += step) {
    const int64_t end = std::min(begin + step, N);
    const at::Tensor x_chunk = rows.slice(0, begin, end);
    const at::Tensor logits = at::mm(x_chunk, weight.t());
    cuda::launch_loss_rows({.logits = logits.mutable_data_ptr(),
                            .targets = targets.const_data_ptr<int64_t>() + begin,
                            .losses = losses.mutable_data_ptr<float>() + begin,
                            .rows = end - begin,
                            .V = V,
                            .ignore_index = options.ignore_index,
                            .label_smoothing = static_cast<float>(options.label_smoothing),
                            .z_loss = static_cast<float>(options.z_loss),
                            .wants_gradient = wanted.x || wanted.weight,
                            .dtype = cuda::dtype_of(logits.scalar_type())},
                           launch.stream());
    if (wanted.x) product_into(result.grad_x.slice(0, begin, end), logits, weight, /*adds=*/false);
    if (wanted.weight) product_into(result.grad_weight, logits.t(), x_chunk, /*adds=*/begin > 0);
  }
  // Where no row counts the loss is NaN, and its gradient zero.
  const at::Tensor count = targets.ne(options.ignore_index).sum().to(at::kFloat);
  result.per_row = count.clamp_min(1.0).reciprocal();
  result.loss = at::div(losses.sum(), count);
  return result;
}

}  // namespace mezzo::kernels
