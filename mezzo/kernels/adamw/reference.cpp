// AdamW's step in plain tensor code: the definition of what the fused loops compute.
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/as_strided.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/where.h>

#include "mezzo/kernels/adamw/adamw.h"
#include "mezzo/kernels/adamw/moment8.h"
#include "mezzo/kernels/adamw/split_weights.h"

namespace mezzo::kernels {
namespace {

/// The elements in the order of memory, as one row that shares it.
at::Tensor in_memory_order(const at::Tensor& tensor) {
  return at::as_strided(tensor, {tensor.numel()}, {1});
}

/// [N] as [blocks, 128], filled up with zeros.
at::Tensor in_blocks(const at::Tensor& row) {
  const int64_t rest = (kMomentBlock - row.numel() % kMomentBlock) % kMomentBlock;
  return at::constant_pad_nd(row, {0, rest}).view({-1, kMomentBlock});
}

at::Tensor without_fill(const at::Tensor& blocks, int64_t N) {
  return blocks.flatten().narrow(0, 0, N);
}

/// a * b + c, rounded once: the product is exact in fp64.
at::Tensor fused(const at::Tensor& a, const at::Tensor& b, const at::Tensor& c) {
  return (a.to(at::kDouble) * b.to(at::kDouble) + c.to(at::kDouble)).to(at::kFloat);
}

/// Rounded to nearest, which libtorch's fp32 root on a CPU (MKL's) is not always.
at::Tensor root_of(const at::Tensor& x) { return x.to(at::kDouble).sqrt().to(at::kFloat); }

/// random_bits() of moment8.h for positions [0, N), as int64; products wrap around in 64 bits, of
/// which the lower 32 are right.
at::Tensor all_random_bits(uint32_t step, int64_t N, at::Device device) {
  constexpr int64_t kLow32 = 0xffffffff;
  auto x = at::arange(N, at::TensorOptions(at::kLong).device(device))
               .bitwise_xor(static_cast<int64_t>(step * 0x9e3779b9u));
  x = (x.bitwise_xor(x.bitwise_right_shift(16)) * int64_t{0x7feb352d}).bitwise_and(kLow32);
  x = (x.bitwise_xor(x.bitwise_right_shift(15)) * int64_t{0x846ca68b}).bitwise_and(kLow32);
  return x.bitwise_xor(x.bitwise_right_shift(16));
}

at::Tensor unit_interval(const at::Tensor& bits16) {
  return (bits16.to(at::kFloat) + 0.5) * 0x1p-16;
}

/// Codes of x >= 0 in blocks, [blocks, 128] fp32, by its scales [blocks].
at::Tensor rounded_root(const at::Tensor& x, const at::Tensor& scale, int32_t top,
                        const at::Tensor& u) {
  const float most = static_cast<float>(top * top);
  const auto factor = at::where(scale < kLeastScale, 0.0, most / scale).to(at::kFloat);
  const auto y = (x * factor.unsqueeze(1)).nan_to_num(most).clamp_max(most);
  const auto low = root_of(y).floor();
  return low + (y - low * low > u * (2 * low + 1)).to(at::kFloat);
}

/// sign(code) code^2 * scale / top^2, [N].
at::Tensor decoded(const at::Tensor& codes, const at::Tensor& scale, int32_t top) {
  const auto n = in_blocks(codes.to(at::kFloat));
  return without_fill(n * n.abs() * (scale / static_cast<float>(top * top)).unsqueeze(1),
                      codes.numel());
}

/// The largest of each block; NaN where it holds one.
at::Tensor scale_of(const at::Tensor& blocks) { return blocks.abs().amax(1); }

void encode_(const AdamWParam& p, const at::Tensor& m, const at::Tensor& sqrt_v) {
  const int64_t N = m.numel();
  const auto bits = all_random_bits(p.coefficients.step, N, m.device());
  const auto u_first = in_blocks(unit_interval(bits.bitwise_and(0xffff)));
  const auto u_second = in_blocks(unit_interval(bits.bitwise_right_shift(16)));
  const auto first = in_blocks(m), second = in_blocks(sqrt_v);
  p.exp_avg_scale.copy_(scale_of(first));
  p.exp_avg_sq_scale.copy_(scale_of(second));
  const auto n = rounded_root(first.abs(), p.exp_avg_scale, kTopOfFirst, u_first);
  const auto k = rounded_root(second, p.exp_avg_sq_scale, kTopOfSecond, u_second);
  in_memory_order(p.exp_avg).copy_(without_fill(at::where(first < 0, -n, n), N));
  in_memory_order(p.exp_avg_sq).copy_(without_fill(at::where(second > 0, k.clamp_min(1), k), N));
}

at::Tensor weight_of(const AdamWParam& p) {
  const auto weight = in_memory_order(p.weight);
  return p.remainder.defined() ? join(weight, in_memory_order(p.remainder)) : weight.to(at::kFloat);
}

void store_weight_(const AdamWParam& p, const at::Tensor& w) {
  const auto weight = in_memory_order(p.weight);
  if (!p.remainder.defined()) {
    weight.copy_(w);
    return;
  }
  const auto [high, remainder] = split(w);
  weight.copy_(high);
  in_memory_order(p.remainder).copy_(remainder);
}

}  // namespace

void reference::adamw_(const AdamWParam& p) {
  const at::NoGradGuard no_grad;
  const AdamWCoefficients& a = p.coefficients;
  const bool is_8bit = p.exp_avg_scale.defined();
  auto m = in_memory_order(p.exp_avg), v = in_memory_order(p.exp_avg_sq);
  if (is_8bit) {
    m = decoded(m, p.exp_avg_scale, kTopOfFirst);
    v = decoded(v, p.exp_avg_sq_scale, kTopOfSecond).square();
  }
  const auto g = in_memory_order(p.grad).to(at::kFloat) / a.grad_scale;
  const bool is_near_m = a.beta1_rest < 0.5f;
  const float way = is_near_m ? a.beta1_rest : a.beta1_rest - 1.0f;
  m = fused(at::full_like(g, way), g - m, is_near_m ? m : g);
  v = fused(g * a.beta2_rest, g, v * a.beta2);
  const auto sqrt_v = root_of(v);
  const auto w = weight_of(p) * a.decay + -a.step_size * m / (sqrt_v / a.root_correction + a.eps);
  store_weight_(p, w);
  if (is_8bit) {
    encode_(p, m, sqrt_v);
  } else {
    in_memory_order(p.exp_avg).copy_(m);
    in_memory_order(p.exp_avg_sq).copy_(v);
  }
}

}  // namespace mezzo::kernels
