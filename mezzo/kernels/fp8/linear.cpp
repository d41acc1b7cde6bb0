#include "mezzo/kernels/fp8/linear.h"

#include <utility>
#include <vector>

#include <fmt/format.h>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/_scaled_mm.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/csrc/autograd/custom_function.h>

#include "mezzo/base/check.h"
#include "mezzo/kernels/cuda/device.h"
#include "mezzo/kernels/cuda/flavour.h"
#include "mezzo/kernels/double_backward.h"
#include "mezzo/kernels/rows.h"
#include "mezzo/kernels/sum_of_rows/sum_of_rows.h"

namespace mezzo::kernels {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr const char* kOp = "fp8_linear";
constexpr int kLeastCapability = 89;

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
  Fp8Source source;
  std::vector<int64_t> x_sizes;
  at::ScalarType x_dtype, weight_dtype;
  bool is_training, wants_x, wants_weight;
};

/// A CPU's product is made of ops that autocast would have in 16 bits: in fp32 they are exact.
struct NoAutocast : c10::impl::ExcludeDispatchKeyGuard {
  NoAutocast() : ExcludeDispatchKeyGuard(c10::autocast_dispatch_keyset) {}
};

class Fp8Linear : public torch::autograd::Function<Fp8Linear> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& weight,
                            const std::optional<at::Tensor>& maybe_bias,
                            const c10::intrusive_ptr<Kept>& kept) {
    const NoAutocast no_autocast;
    const at::Tensor bias = maybe_bias.value_or(at::Tensor());
    Fp8Recipe& recipe = *kept->recipe;
    const bool keeps_x = kept->wants_weight && kept->source.again == nullptr;
    const Fp8 x8 = recipe.x.cast(rows_of(x), keeps_x, kept->is_training);
    const Fp8 weight8 = recipe.weight.cast(weight, kept->wants_x, kept->is_training);
    variable_list saved = {x8.transposed, x8.scale, weight8.transposed, weight8.scale, bias};
    if (kept->wants_weight)
      saved.insert(saved.end(), kept->source.from.begin(), kept->source.from.end());
    kept->source.from.clear();  // saved_data outlives the backward pass, and saved variables do not
    ctx->save_for_backward(saved);
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
    const NoAutocast no_autocast;
    const auto kept = c10::static_intrusive_pointer_cast<Kept>(ctx->saved_data["kept"].toCapsule());
    const variable_list saved = ctx->get_saved_variables();
    const Operand weight{saved[2], saved[3]};
    const at::Tensor &x_scale = saved[1], &bias = saved[4], rows = rows_of(grads[0]);
    const Fp8 grad = kept->recipe->grad.cast(rows, kept->wants_weight);
    variable_list result(4);
    if (kept->wants_x)
      result[0] = product({grad.values, grad.scale}, weight, kept->x_dtype).view(kept->x_sizes);
    if (kept->wants_weight) {
      at::Tensor x = saved[0];
      if (!x.defined()) {
        const at::Tensor again = kept->source.again({saved.begin() + kFirstOfSource, saved.end()});
        x = kept->recipe->x.cast_again(rows_of(again), x_scale).transposed;
      }
      result[1] = product({grad.transposed, grad.scale}, {x, x_scale}, kept->weight_dtype);
    }
    if (bias.defined()) result[2] = sum_of_rows(rows).to(bias.scalar_type());
    return result;
  }

 private:
  static constexpr int kFirstOfSource = 5;  // of the saved variables
};

}  // namespace

std::string fp8_refusal(at::Device device) {
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
    if (size == 0 || size % kFp8Multiple != 0)
      return fmt::format("{} = {}, which is no positive multiple of {}", name, size, kFp8Multiple);
  }
  return fp8_refusal(x.device());
}

at::Tensor fp8_linear(const at::Tensor& x, const at::Tensor& weight,
                      const std::optional<at::Tensor>& bias,
                      const std::shared_ptr<Fp8Recipe>& recipe, const Fp8Source& source) {
  MEZZO_CHECK(x.dim() > 0 && weight.dim() == 2 && x.size(-1) == weight.size(1), kOp,
              "x must be [..., C] and weight [N, C], but their last sizes are {} and {}",
              x.dim() > 0 ? x.size(-1) : 1, weight.dim() > 0 ? weight.size(-1) : 1);
  const std::string refusal = fp8_refusal(x, weight);
  MEZZO_CHECK(refusal.empty(), kOp,
              "no FP8 for {}. Hint: ask fp8_refusal(), and at::linear in bf16", refusal);
  const bool is_training = at::GradMode::is_enabled();
  auto kept = c10::make_intrusive<Kept>();
  kept->recipe = recipe;
  kept->source = source;
  kept->is_training = is_training;
  kept->x_sizes = x.sizes().vec();
  kept->x_dtype = x.scalar_type();
  kept->weight_dtype = weight.scalar_type();
  kept->wants_x = is_training && x.requires_grad();
  kept->wants_weight = is_training && weight.requires_grad();
  return Fp8Linear::apply(x, weight, bias, kept);
}

}  // namespace mezzo::kernels
