#include "mezzo/kernels/fp8/linear.h"

#include <utility>
#include <vector>

#include <fmt/format.h>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/_scaled_mm.h>
#include <torch/csrc/autograd/custom_function.h>

#include "mezzo/base/check.h"
#include "mezzo/kernels/cuda/device.h"
#include "mezzo/kernels/cuda/flavour.h"
#include "mezzo/kernels/fused_linear/linear_grads.h"
#include "mezzo/kernels/sum_of_rows/sum_of_rows.h"

namespace mezzo::kernels {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr const char* kOp = "fp8_linear";
constexpr int64_t kMultiple = 16;
constexpr int kLeastCapability = 89;

std::string device_refusal(at::Device device) {
  if (device.is_cpu()) return "";
  if constexpr (kHasCuda) {
    if (device.is_cuda()) {
      const int capability = cuda::gpu_of(device).capability;
      if (capability >= kLeastCapability) return "";
      return fmt::format("a GPU of compute capability {}.{}, without FP8 products", capability / 10,
                         capability % 10);
    }
  }
  return "not on a CPU, or a GPU that this build has kernels for";
}

/// a b^T, both stored along what is summed over, as FP8 products want them.
struct Operand {
  const at::Tensor &values, &scale;
};
at::Tensor product(const Operand& a, const Operand& b, at::ScalarType dtype,
                   const std::optional<at::Tensor>& bias = {}, bool is_fast = false) {
  return at::_scaled_mm(a.values, b.values.t(), a.scale, b.scale, bias, /*scale_result=*/{}, dtype,
                        is_fast);
}

/// What the node keeps beside tensors.
struct Kept : torch::CustomClassHolder {
  std::shared_ptr<Fp8Recipe> recipe;
  std::vector<int64_t> x_sizes;
  at::ScalarType x_dtype, weight_dtype;
  bool wants_x, wants_weight;
};

class Fp8Linear : public torch::autograd::Function<Fp8Linear> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& weight,
                            const std::optional<at::Tensor>& maybe_bias,
                            const c10::intrusive_ptr<Kept>& kept) {
    const at::Tensor bias = maybe_bias.value_or(at::Tensor());
    const at::Tensor rows = x.reshape({-1, x.size(-1)});
    const Fp8 x8 = kept->recipe->x.cast(rows, kept->wants_weight);
    const Fp8 weight8 = kept->recipe->weight.cast(weight, kept->wants_x);
    ctx->save_for_backward({x8.transposed, x8.scale, weight8.transposed, weight8.scale, bias});
    ctx->saved_data["kept"] = c10::IValue::make_capsule(kept);
    std::optional<at::Tensor> bias16;
    if (bias.defined()) bias16 = bias.to(at::kBFloat16);
    std::vector<int64_t> sizes = x.sizes().vec();
    sizes.back() = weight.size(0);
    return product({x8.values, x8.scale}, {weight8.values, weight8.scale}, at::kBFloat16, bias16,
                   /*is_fast=*/true)
        .view(sizes);
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    check_no_double_backward(kOp);
    const auto kept = c10::static_intrusive_pointer_cast<Kept>(ctx->saved_data["kept"].toCapsule());
    const variable_list saved = ctx->get_saved_variables();
    const Operand x{saved[0], saved[1]}, weight{saved[2], saved[3]};
    const at::Tensor &bias = saved[4], rows = grads[0].reshape({-1, grads[0].size(-1)});
    const Fp8 grad = kept->recipe->grad.cast(rows, kept->wants_weight);
    variable_list result(4);
    if (kept->wants_x)
      result[0] = product({grad.values, grad.scale}, weight, kept->x_dtype).view(kept->x_sizes);
    if (kept->wants_weight)
      result[1] = product({grad.transposed, grad.scale}, x, kept->weight_dtype);
    if (bias.defined()) result[2] = sum_of_rows(rows).to(bias.scalar_type());
    return result;
  }
};

}  // namespace

std::string fp8_refusal(const at::Tensor& x, const at::Tensor& weight) {
  if (weight.device() != x.device()) return "x and weight on different devices";
  for (const at::Tensor& tensor : {x, weight}) {
    const at::ScalarType dtype = tensor.scalar_type();
    if (dtype != at::kFloat && dtype != at::kBFloat16 && dtype != at::kHalf)
      return fmt::format("dtype {}", c10::toString(dtype));
  }
  const int64_t N = weight.size(0), C = weight.size(1);
  const int64_t rows = C == 0 ? 0 : x.numel() / C;
  for (const auto& [name, size] : {std::pair("C", C), {"N", N}, {"rows", rows}}) {
    if (size == 0 || size % kMultiple != 0)
      return fmt::format("{} = {}, which is no positive multiple of {}", name, size, kMultiple);
  }
  return device_refusal(x.device());
}

at::Tensor fp8_linear(const at::Tensor& x, const at::Tensor& weight,
                      const std::optional<at::Tensor>& bias,
                      const std::shared_ptr<Fp8Recipe>& recipe) {
  MEZZO_CHECK(x.dim() > 0 && weight.dim() == 2 && x.size(-1) == weight.size(1), kOp,
              "x must be [..., C] and weight [N, C], but their last sizes are {} and {}",
              x.dim() > 0 ? x.size(-1) : 1, weight.dim() > 0 ? weight.size(-1) : 1);
  const std::string refusal = fp8_refusal(x, weight);
  MEZZO_CHECK(refusal.empty(), kOp,
              "no FP8 for {}. Hint: ask fp8_refusal(), and at::linear in bf16", refusal);
  const bool is_training = at::GradMode::is_enabled();
  auto kept = c10::make_intrusive<Kept>();
  kept->recipe = recipe;
  kept->x_sizes = x.sizes().vec();
  kept->x_dtype = x.scalar_type();
  kept->weight_dtype = weight.scalar_type();
  kept->wants_x = is_training && x.requires_grad();
  kept->wants_weight = is_training && weight.requires_grad();
  return Fp8Linear::apply(x, weight, bias, kept);
}

}  // namespace mezzo::kernels
