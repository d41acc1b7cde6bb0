#include "mezzo/kernels/adamw/adamw.h"

#include <map>

#include <fmt/ranges.h>

#include "mezzo/base/check.h"
#include "mezzo/kernels/adamw/moment8.h"
#include "mezzo/kernels/adamw/pointers.h"
#include "mezzo/kernels/ceil_div.h"
#include "mezzo/kernels/cuda/flavour.h"

namespace mezzo::kernels {
namespace {

void check_layout(const char* name, const at::Tensor& tensor, const at::Tensor& weight) {
  MEZZO_CHECK(tensor.sizes() == weight.sizes() && tensor.strides() == weight.strides() &&
                  tensor.device() == weight.device(),
              "adamw_",
              "{} must lie as the weight, [{}] with strides [{}] on {}, but is [{}] with strides "
              "[{}] on {}",
              name, fmt::join(weight.sizes(), ", "), fmt::join(weight.strides(), ", "),
              weight.device().str(), fmt::join(tensor.sizes(), ", "),
              fmt::join(tensor.strides(), ", "), tensor.device().str());
}

void check_dtype(const char* name, const at::Tensor& tensor, bool is_right, const char* allowed) {
  MEZZO_CHECK(is_right, "adamw_", "{} must be {}, but is {}", name, allowed,
              c10::toString(tensor.scalar_type()));
}

void check_weight(const AdamWParam& p) {
  const auto dtype = p.weight.scalar_type();
  MEZZO_CHECK(p.weight.is_non_overlapping_and_dense(), "adamw_",
              "the weight must be dense in memory, but has strides [{}] for shape [{}]",
              fmt::join(p.weight.strides(), ", "), fmt::join(p.weight.sizes(), ", "));
  check_dtype("the weight", p.weight,
              dtype == at::kFloat || dtype == at::kBFloat16 || dtype == at::kHalf,
              "fp32, bf16 or fp16");
  if (p.remainder.defined()) {
    check_layout("the remainder", p.remainder, p.weight);
    check_dtype("the remainder", p.remainder, p.remainder.scalar_type() == at::kShort, "int16");
    check_dtype("a weight with a remainder", p.weight, dtype == at::kBFloat16, "bf16");
  }
}

void check_gradient(const AdamWParam& p) {
  const auto dtype = p.grad.scalar_type();
  check_layout("the gradient", p.grad, p.weight);
  check_dtype("the gradient", p.grad,
              dtype == at::kFloat || dtype == at::kBFloat16 || dtype == at::kHalf,
              "fp32, bf16 or fp16");
}

void check_moments(const AdamWParam& p) {
  check_layout("exp_avg", p.exp_avg, p.weight);
  check_layout("exp_avg_sq", p.exp_avg_sq, p.weight);
  const bool is_8bit = p.exp_avg_scale.defined();
  check_dtype("exp_avg", p.exp_avg, p.exp_avg.scalar_type() == (is_8bit ? at::kChar : at::kFloat),
              "int8 beside a scale, fp32 without");
  check_dtype("exp_avg_sq", p.exp_avg_sq,
              p.exp_avg_sq.scalar_type() == (is_8bit ? at::kByte : at::kFloat),
              "uint8 beside a scale, fp32 without");
  if (!is_8bit) return;
  const int64_t blocks = moment_blocks(p.weight.numel());
  for (const at::Tensor& scale : {p.exp_avg_scale, p.exp_avg_sq_scale}) {
    MEZZO_CHECK(scale.defined() && scale.scalar_type() == at::kFloat && scale.is_contiguous() &&
                    scale.numel() == blocks && scale.device() == p.weight.device(),
                "adamw_", "both scales must be fp32, one for each of {} blocks", blocks);
  }
}

void* address(const at::Tensor& tensor) {
  return tensor.defined() ? tensor.mutable_data_ptr() : nullptr;
}

bool has_gpu_kernel(const AdamWParam& p) {
  if constexpr (kHasCuda) return cuda::takes_adamw(p.weight);
  return false;
}

}  // namespace

AdamWPointers adamw_pointers(const AdamWParam& p) {
  const AdamWAddresses addresses{
      .N = p.weight.numel(),
      .weight = address(p.weight),
      .remainder = static_cast<int16_t*>(address(p.remainder)),
      .grad = p.grad.const_data_ptr(),
      .exp_avg = address(p.exp_avg),
      .exp_avg_sq = address(p.exp_avg_sq),
      .exp_avg_scale = static_cast<float*>(address(p.exp_avg_scale)),
      .exp_avg_sq_scale = static_cast<float*>(address(p.exp_avg_sq_scale)),
      .coefficients = p.coefficients};
  return {addresses, p.weight.scalar_type(), p.grad.scalar_type()};
}

int64_t moment_blocks(int64_t N) { return ceil_div(N, kMomentBlock); }

void check_adamw(const std::vector<AdamWParam>& params) {
  for (const AdamWParam& p : params) {
    check_weight(p);
    check_gradient(p);
    check_moments(p);
  }
}

void adamw_(const std::vector<AdamWParam>& params) {
  check_adamw(params);
  std::vector<AdamWPointers> on_cpu;
  std::map<c10::DeviceIndex, std::vector<AdamWParam>> on_gpu;
  on_cpu.reserve(params.size());
  for (const AdamWParam& p : params) {
    p.weight.unsafeGetTensorImpl()->bump_version();  // as any op that works in place
    if (p.weight.is_cpu()) {
      on_cpu.push_back(adamw_pointers(p));
    } else if (has_gpu_kernel(p)) {
      on_gpu[p.weight.device().index()].push_back(p);
    } else {
      reference::adamw_(p);
    }
  }
  cpu::adamw_(on_cpu);
  if constexpr (kHasCuda) {
    for (const auto& [device, own] : on_gpu) cuda::adamw_(own);
  }
}

}  // namespace mezzo::kernels
