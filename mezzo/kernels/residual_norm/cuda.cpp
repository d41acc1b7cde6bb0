// residual_norm.h on a GPU: tensors to addresses.

#include "mezzo/kernels/residual_norm/cuda.h"

#include <algorithm>

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include "mezzo/kernels/cuda/launch.h"
#include "mezzo/kernels/cuda/launch_guard.h"
#include "mezzo/kernels/cuda/tensors.h"
#include "mezzo/kernels/residual_norm/residual_norm.h"
#include "mezzo/kernels/residual_norm/statistics.h"

namespace mezzo::kernels::cuda {
namespace {

at::Tensor vector_of(const at::Tensor& value) {
  return value.defined() ? aligned(value.to(at::kFloat)) : value;
}

const float* address(const at::Tensor& vector) {
  return vector.defined() ? vector.const_data_ptr<float>() : nullptr;
}

}  // namespace

bool takes_norm(const at::Tensor& x, at::ScalarType out) {
  const at::ScalarType stream = x.scalar_type();
  return takes(x) && x.numel() > 0 && is_kernel_dtype(out) &&
         (stream == at::kFloat || stream == out) && row_layout(x.size(-1)).threads > 0;
}

ResidualNorm residual_norm(const at::Tensor& x_in, const at::Tensor& branch_in,
                           const at::Tensor& weight_in, const at::Tensor& bias_in, double eps,
                           at::ScalarType dtype, NormKind kind) {
  const LaunchGuard launch(x_in);
  const at::Tensor x = aligned(x_in), weight = vector_of(weight_in), bias = vector_of(bias_in);
  at::Tensor branch = branch_in;
  // fp32 holds each of the others exactly.
  if (branch.defined() && branch.scalar_type() != dtype) branch = branch.to(at::kFloat);
  if (branch.defined()) branch = aligned(branch);
  ResidualNorm result{
      branch.defined() ? at::empty_like(x) : x, at::empty(x.sizes(), x.options().dtype(dtype)),
      kind == NormKind::kLayer ? statistics_like(x) : at::Tensor(), statistics_like(x)};
  launch_norm_rows({.x = x.const_data_ptr(),
                    .branch = branch.defined() ? branch.const_data_ptr() : nullptr,
                    .weight = address(weight),
                    .bias = address(bias),
                    .sum = branch.defined() ? result.sum.mutable_data_ptr() : nullptr,
                    .normed = result.normed.mutable_data_ptr(),
                    .mean = result.mean.defined() ? result.mean.mutable_data_ptr<float>() : nullptr,
                    .rstd = result.rstd.mutable_data_ptr<float>(),
                    .rows = x.numel() / x.size(-1),
                    .C = x.size(-1),
                    .eps = static_cast<float>(eps),
                    .stream_dtype = dtype_of(x.scalar_type()),
                    .branch_dtype = dtype_of(branch.defined() ? branch.scalar_type() : dtype),
                    .out = dtype_of(dtype)},
                   launch.stream());
  return result;
}

at::Tensor norm_again(const at::Tensor& sum_in, const at::Tensor& mean, const at::Tensor& rstd,
                      const at::Tensor& weight_in, const at::Tensor& bias_in,
                      at::ScalarType dtype) {
  const LaunchGuard launch(sum_in);
  const at::Tensor sum = aligned(sum_in), weight = vector_of(weight_in), bias = vector_of(bias_in);
  at::Tensor normed = at::empty(sum.sizes(), sum.options().dtype(dtype));
  launch_norm_again({.x = nullptr,
                     .branch = nullptr,
                     .weight = address(weight),
                     .bias = address(bias),
                     .sum = sum.mutable_data_ptr(),  // which is only read
                     .normed = normed.mutable_data_ptr(),
                     .mean = mean.defined() ? mean.mutable_data_ptr<float>() : nullptr,
                     .rstd = rstd.mutable_data_ptr<float>(),
                     .rows = sum.numel() / sum.size(-1),
                     .C = sum.size(-1),
                     .eps = 0.0f,
                     .stream_dtype = dtype_of(sum.scalar_type()),
                     .branch_dtype = dtype_of(dtype),
                     .out = dtype_of(dtype)},
                    launch.stream());
  return normed;
}

ResidualNormGrads residual_norm_backward(const at::Tensor& grad_normed_in,
                                         const at::Tensor& grad_sum_in, const at::Tensor& sum_in,
                                         const at::Tensor& mean, const at::Tensor& rstd,
                                         const at::Tensor& weight_in, const at::Tensor& bias_in,
                                         ResidualNormExtras extras) {
  const LaunchGuard launch(sum_in);
  const at::Tensor grad_normed = aligned(grad_normed_in), sum = aligned(sum_in);
  const at::Tensor weight = vector_of(weight_in), bias = vector_of(bias_in);
  const at::Tensor grad_sum =
      grad_sum_in.defined() ? aligned(grad_sum_in.to(sum.scalar_type())) : grad_sum_in;
  const int64_t C = sum.size(-1), rows = sum.numel() / C;
  const DType stream_dtype = dtype_of(sum.scalar_type()), out = dtype_of(grad_normed.scalar_type());
  // As many as run at once: all of them begin together and end together.
  const int resident = resident_norm_grad_blocks(C, stream_dtype, out) * launch.multiprocessors();
  const auto blocks = static_cast<int>(std::min<int64_t>(rows, resident));
  at::Tensor grad_x = at::empty_like(sum),
             grad_branch = extras.branch ? at::empty_like(grad_normed) : at::Tensor(),
             normed = extras.normed ? at::empty_like(grad_normed) : at::Tensor();
  at::Tensor partials = at::empty({2, blocks, C}, sum.options().dtype(at::kFloat));
  launch_norm_grad_rows({.grad_normed = grad_normed.const_data_ptr(),
                         .grad_sum = grad_sum.defined() ? grad_sum.const_data_ptr() : nullptr,
                         .sum = sum.const_data_ptr(),
                         .mean = address(mean),
                         .rstd = rstd.const_data_ptr<float>(),
                         .weight = address(weight),
                         .bias = address(bias),
                         .grad_x = grad_x.mutable_data_ptr(),
                         .grad_branch = extras.branch ? grad_branch.mutable_data_ptr() : nullptr,
                         .normed = extras.normed ? normed.mutable_data_ptr() : nullptr,
                         .partials = partials.mutable_data_ptr<float>(),
                         .rows = rows,
                         .C = C,
                         .blocks = blocks,
                         .stream_dtype = stream_dtype,
                         .out = out},
                        launch.stream());
  const at::Tensor sums = partials.sum(1);
  return {grad_x, grad_branch, sums[0], sums[1], normed};
}

}  // namespace mezzo::kernels::cuda
