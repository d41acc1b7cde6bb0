#pragma once

#include <ATen/core/Tensor.h>

namespace mezzo::kernels {

// The sum of a residual stream and the normalisation that reads it, in one pass over memory, and
// both gradients in one. Rows are all dimensions but the last, of C elements. Below autograd; on
// other devices than a CPU, and for dtypes that are not named here, plain tensor code does the
// same.

enum class NormKind {
  kLayer,  ///< layer normalisation: Ba, Kiros and Hinton, arXiv 1607.06450, equation 3
  kRms,    ///< RMSNorm, which subtracts no mean: Zhang and Sennrich, arXiv 1910.07467, equation 4
};

struct ResidualNorm {
  at::Tensor sum;     ///< x + branch, in the dtype of x; x itself without a branch
  at::Tensor normed;  ///< (sum - mean) * rstd * weight + bias
  at::Tensor mean;    ///< fp32, one a row; of RMSNorm undefined, and 0 where it is subtracted
  at::Tensor rstd;    ///< fp32, one a row: 1 / sqrt(mean((sum - mean)^2) + eps)
};

///   x       [..., C]  fp32, bf16 or fp16: the residual stream
///   branch  [..., C]  of any of these, or undefined: what is added to it
///   weight  [C], bias [C] or undefined, of any float type
///   dtype   of normed: that of x, or a 16-bit type
/// Sums and statistics are fp32; the sum is rounded to the dtype of x before it is normalised, as
/// two ops would. Max error of normed beyond what the sum's rounding brings: those of sums of C
/// numbers and four more fp32 roundings, of mixed sign, and one to dtype, relative to |normed| +
/// |bias|, where the variance is not small beside the mean's square. Throws Error if shapes or
/// devices disagree.
ResidualNorm residual_norm(const at::Tensor& x, const at::Tensor& branch, const at::Tensor& weight,
                           const at::Tensor& bias, double eps, at::ScalarType dtype,
                           NormKind kind = NormKind::kLayer);

/// normed of an earlier call again, bit for bit, from what it left. An undefined mean, here and in
/// the backward pass, says that it was RMSNorm.
at::Tensor norm_again(const at::Tensor& sum, const at::Tensor& mean, const at::Tensor& rstd,
                      const at::Tensor& weight, const at::Tensor& bias, at::ScalarType dtype);

struct ResidualNormGrads {
  at::Tensor x;             ///< in the dtype of sum: the gradient of x, and of the branch
  at::Tensor branch;        ///< if asked for
  at::Tensor weight, bias;  ///< [C], fp32
  at::Tensor normed;        ///< if asked for
};

struct ResidualNormExtras {
  bool branch = false;  ///< the gradient of x also in the dtype of grad_normed, for such a branch
  bool normed = false;  ///< norm_again(), in the dtype of grad_normed
};

///   grad_normed  [..., C], grad_sum [..., C] in the dtype of sum, or undefined
///   bias         as in the forward pass: for normed
ResidualNormGrads residual_norm_backward(const at::Tensor& grad_normed, const at::Tensor& grad_sum,
                                         const at::Tensor& sum, const at::Tensor& mean,
                                         const at::Tensor& rstd, const at::Tensor& weight,
                                         const at::Tensor& bias, ResidualNormExtras extras = {});

namespace reference {

ResidualNorm residual_norm(const at::Tensor& x, const at::Tensor& branch, const at::Tensor& weight,
                           const at::Tensor& bias, double eps, at::ScalarType dtype,
                           NormKind kind = NormKind::kLayer);
at::Tensor norm_again(const at::Tensor& sum, const at::Tensor& mean, const at::Tensor& rstd,
                      const at::Tensor& weight, const at::Tensor& bias, at::ScalarType dtype);
ResidualNormGrads residual_norm_backward(const at::Tensor& grad_normed, const at::Tensor& grad_sum,
                                         const at::Tensor& sum, const at::Tensor& mean,
                                         const at::Tensor& rstd, const at::Tensor& weight,
                                         const at::Tensor& bias, ResidualNormExtras extras = {});

}  // namespace reference

/// The same by a CPU's loops, where takes_norm() says so.
namespace cpu {

/// x [..., C] on a CPU, and normalised numbers in `out`, are what the loops are written for.
bool takes_norm(const at::Tensor& x, at::ScalarType out);
ResidualNorm residual_norm(const at::Tensor& x, const at::Tensor& branch, const at::Tensor& weight,
                           const at::Tensor& bias, double eps, at::ScalarType dtype,
                           NormKind kind = NormKind::kLayer);
at::Tensor norm_again(const at::Tensor& sum, const at::Tensor& mean, const at::Tensor& rstd,
                      const at::Tensor& weight, const at::Tensor& bias, at::ScalarType dtype);
ResidualNormGrads residual_norm_backward(const at::Tensor& grad_normed, const at::Tensor& grad_sum,
                                         const at::Tensor& sum, const at::Tensor& mean,
                                         const at::Tensor& rstd, const at::Tensor& weight,
                                         const at::Tensor& bias, ResidualNormExtras extras = {});

}  // namespace cpu

/// The same by a GPU's kernels, where takes_norm() says so (mezzo/kernels/cuda/flavour.h). The
/// weight's and the bias's gradient are summed in the same order each time on one GPU.
namespace cuda {

/// x [..., C] on a GPU, and normalised numbers in `out`, are what the kernels are written for.
bool takes_norm(const at::Tensor& x, at::ScalarType out);
ResidualNorm residual_norm(const at::Tensor& x, const at::Tensor& branch, const at::Tensor& weight,
                           const at::Tensor& bias, double eps, at::ScalarType dtype,
                           NormKind kind = NormKind::kLayer);
at::Tensor norm_again(const at::Tensor& sum, const at::Tensor& mean, const at::Tensor& rstd,
                      const at::Tensor& weight, const at::Tensor& bias, at::ScalarType dtype);
ResidualNormGrads residual_norm_backward(const at::Tensor& grad_normed, const at::Tensor& grad_sum,
                                         const at::Tensor& sum, const at::Tensor& mean,
                                         const at::Tensor& rstd, const at::Tensor& weight,
                                         const at::Tensor& bias, ResidualNormExtras extras = {});

}  // namespace cuda
}  // namespace mezzo::kernels
