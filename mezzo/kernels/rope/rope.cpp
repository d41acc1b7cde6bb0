#include "mezzo/kernels/rope/rope.h"

#include <string_view>

#include <fmt/ranges.h>

#include <torch/csrc/autograd/custom_function.h>

#include "mezzo/base/check.h"
#include "mezzo/kernels/cuda/flavour.h"
#include "mezzo/kernels/cuda/tensors.h"
#include "mezzo/kernels/ops.h"
#include "mezzo/kernels/rope/rotate.h"
#include "mezzo/kernels/simd/with_type.h"

namespace mezzo::kernels {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

class Rope : public torch::autograd::Function<Rope> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& table,
                            bool is_interleaved, bool is_inverse) {
    ctx->save_for_backward({table});
    ctx->saved_data["is_interleaved"] = is_interleaved;
    ctx->saved_data["is_inverse"] = is_inverse;
    return rotate_pairs(x, table, is_interleaved ? RopePairs::kInterleaved : RopePairs::kHalves,
                        is_inverse);
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    return {
        apply(grads[0], ctx->get_saved_variables()[0], ctx->saved_data["is_interleaved"].toBool(),
              !ctx->saved_data["is_inverse"].toBool()),
        {},
        {},
        {}};
  }
};

void check_arguments(const at::Tensor& x, const at::Tensor& table) {
  constexpr std::string_view kOp = "rope";
  MEZZO_CHECK(x.dim() == 4 && x.size(3) % 2 == 0 && x.is_floating_point(), kOp,
              "x must be [B, T, H, D] of a float type, with an even D, but is [{}] of {}",
              fmt::join(x.sizes(), ", "), c10::toString(x.scalar_type()));
  MEZZO_CHECK(
      table.scalar_type() == at::kFloat, kOp,
      "table must be fp32, but is {}. Hint: a model's to(dtype) casts its buffers too; make "
      "the table anew, by rope_table()",
      c10::toString(table.scalar_type()));
  const int64_t T = x.size(1), D = x.size(3);
  MEZZO_CHECK(table.dim() == 2 && table.size(1) == D, kOp,
              "table must be [positions, {}], as x has heads of {}, but is [{}]. Hint: "
              "rope_table(positions, {})",
              D, D, fmt::join(table.sizes(), ", "), D);
  MEZZO_CHECK(table.size(0) >= T, kOp,
              "x has {} positions, but table only {}. Hint: make a longer one, by rope_table()", T,
              table.size(0));
  MEZZO_CHECK(table.device() == x.device(), kOp,
              "table must be on the device of x, {}, but is on {}. Hint: table.to(x.device())",
              x.device().str(), table.device().str());
}

}  // namespace

at::Tensor rotate_pairs(const at::Tensor& x, const at::Tensor& table, RopePairs pairs,
                        bool is_inverse) {
  if constexpr (kHasCuda) {
    if (cuda::takes(x)) return cuda::rotate_pairs(x, table, pairs, is_inverse);
  }
  if (cpu::takes(x)) return cpu::rotate_pairs(x, table, pairs, is_inverse);
  return reference::rotate_pairs(x, table, pairs, is_inverse);
}

at::Tensor rope_autograd(const at::Tensor& x, const at::Tensor& table, bool is_interleaved) {
  check_arguments(x, table);
  return Rope::apply(x, table, is_interleaved, /*is_inverse=*/false);
}

at::Tensor rope(const at::Tensor& x, const at::Tensor& table, RopePairs pairs) {
  static const auto op = typed_op<decltype(rope_autograd)>("mezzo::rope");
  return op.call(x, table, pairs == RopePairs::kInterleaved);
}

}  // namespace mezzo::kernels
