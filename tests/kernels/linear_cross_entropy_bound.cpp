#include "tests/kernels/linear_cross_entropy_bound.h"

#include <cmath>

#include <ATen/ATen.h>

#include "mezzo/base/float_format.h"
#include "mezzo/kernels/linear_cross_entropy/reference.h"

namespace mezzo::kernels {
namespace {

constexpr double kUnitFp32 = 0x1p-24;

at::Tensor wide_abs(const at::Tensor& x) { return x.to(at::kDouble).abs(); }

}  // namespace

LossCase random_case(int64_t N, int64_t V, int64_t C, at::ScalarType dtype, at::Device device) {
  at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(N + V + C);
  return {at::randn({N, C}, generator).to(dtype),
          at::randn({V, C}, generator).to(dtype),
          at::randint(V, {N}, generator, at::kLong),
          {},
          device};
}

LossValues exact_values(const LossCase& c, double factor) {
  at::Tensor x = c.x.detach().to(at::kDouble).requires_grad_();
  at::Tensor weight = c.weight.detach().to(at::kDouble).requires_grad_();
  const at::Tensor loss = reference::linear_cross_entropy(x, weight, c.targets, c.options);
  (loss * factor).backward();
  return {loss.detach(), x.grad(), weight.grad()};
}

LossValues error_bounds(const LossCase& c, const LossValues& exact, double factor) {
  const at::ScalarType dtype = c.x.scalar_type();
  const FloatFormat& format = float_format(dtype);
  const double u = dtype == at::kFloat ? 0.0 : format.epsilon / 2;  // of a rounding to 16 bits
  // Of a CPU's bf16 products, logits among them. A GPU's logits and their gradient have the dtype
  // of x, fp16 too; its other products are fp32.
  const bool is_gpu = c.device.is_cuda();
  const double u_product = dtype == at::kBFloat16 && !is_gpu ? u : 0.0;
  const double u_logits = is_gpu ? u : u_product;
  const double s = c.options.label_smoothing, z_loss = c.options.z_loss;
  const at::Tensor x = wide_abs(c.x), weight = wide_abs(c.weight);
  const auto N = x.size(0), V = weight.size(0), C = x.size(1);

  // Logits: a sum of C products (Higham, eq. 3.13), and their rounding.
  const at::Tensor logits = at::matmul(c.x.to(at::kDouble), c.weight.to(at::kDouble).t());
  const at::Tensor sum_error = at::matmul(x, weight.t()) * ((C + 2) * kUnitFp32);
  const double logit_error =
      (sum_error + u_logits * (logits.abs() + sum_error)).max().item<double>();
  // The sum of exponentials, relative: the difference that enters is rounded, exp_of is within 2
  // ULP, 512 terms are summed in fp32.
  const double spread = (logits.max() - logits.min()).item<double>() + 2 * logit_error;
  const double exp_error = (spread + 4) * kUnitFp32, exps_error = exp_error + 512 * kUnitFp32;
  const at::Tensor lse = at::logsumexp(logits, 1, /*keepdim=*/true);
  const double largest_lse = lse.abs().max().item<double>() + logit_error;

  // lse, z[t] and mean(z) each move by at most what a logit does; and the loss is rounded.
  const double loss_error = logit_error * (2 + 2 * z_loss * largest_lse) +
                            exps_error * (1 + 2 * z_loss * largest_lse) + 513 * spread * kUnitFp32;
  const at::Tensor loss = exact.loss.abs() * kUnitFp32 + loss_error;

  // softmax = exp(z - max) / sum: both move with the logits. Then three operations in fp32, and
  // the rounding of the logits' gradient.
  const auto is_counted = (c.targets != c.options.ignore_index).to(at::kDouble).unsqueeze(1);
  const double scale = std::abs(factor) / is_counted.sum().item<double>();
  const at::Tensor softmax = at::exp(logits - lse) * is_counted * scale;
  const at::Tensor at_target =
      at::zeros_like(logits).scatter_(1, c.targets.clamp_min(0).unsqueeze(1), (1 - s) * scale) *
      is_counted;
  const at::Tensor smoothed = is_counted * (scale * s / static_cast<double>(V));
  const at::Tensor slope = 1 + 2 * z_loss * lse;
  const at::Tensor magnitude = softmax * slope.abs() + at_target + smoothed;
  const at::Tensor computed =
      softmax * slope.abs() * (std::expm1(2 * logit_error) + exp_error + exps_error) +
      softmax * (2 * z_loss * logit_error) + 4 * kUnitFp32 * magnitude;
  const at::Tensor grad = (softmax * slope - at_target - smoothed).abs() + computed;
  // What a GPU rounds is the gradient of the losses' sum, which in fp16 may be a subnormal.
  const double underflow = is_gpu ? scale * format.smallest_subnormal / 2 : 0.0;
  const at::Tensor grad_error = computed + u_logits * grad + underflow;

  // The products of these; bf16 ones are rounded, chunk by chunk; a factor's product is rounded.
  const auto result = [&](const at::Tensor& error, const at::Tensor& product, int64_t length,
                          const at::Tensor& exact_result) {
    const at::Tensor before = error + product * ((length + 2) * kUnitFp32 + u_product);
    return before + (u + 2 * kUnitFp32) * (exact_result.abs() + before) + format.smallest_subnormal;
  };
  return {loss, result(grad_error.matmul(weight), grad.matmul(weight), V, exact.grad_x),
          result(grad_error.t().matmul(x), grad.t().matmul(x), N, exact.grad_weight)};
}

}  // namespace mezzo::kernels
