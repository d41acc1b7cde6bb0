#include "mezzo/kernels/linear_cross_entropy/linear_cross_entropy.h"

#include <string>
#include <string_view>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <ATen/autocast_mode.h>

#include "mezzo/base/check.h"
#include "mezzo/base/log.h"
#include "mezzo/kernels/cuda/flavour.h"
#include "mezzo/kernels/linear_cross_entropy/autograd.h"
#include "mezzo/kernels/linear_cross_entropy/chunked.h"
#include "mezzo/kernels/linear_cross_entropy/op.h"
#include "mezzo/kernels/linear_cross_entropy/reference.h"
#include "mezzo/kernels/ops.h"

namespace mezzo::kernels {
namespace {

void check_arguments(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& targets,
                     const LinearCrossEntropyOptions& options) {
  constexpr std::string_view kOp = "linear_cross_entropy";
  MEZZO_CHECK(weight.dim() == 2 && weight.size(0) > 0, kOp,
              "weight must be [V, C] with V > 0, but is [{}]", fmt::join(weight.sizes(), ", "));
  MEZZO_CHECK(x.dim() > 0 && x.size(-1) == weight.size(1), kOp,
              "x must be [..., {}] for weight [V, {}], but is [{}]", weight.size(1), weight.size(1),
              fmt::join(x.sizes(), ", "));
  MEZZO_CHECK(targets.sizes() == x.sizes().slice(0, x.dim() - 1), kOp,
              "targets must be [{}], one a row of x, but are [{}]",
              fmt::join(x.sizes().slice(0, x.dim() - 1), ", "), fmt::join(targets.sizes(), ", "));
  MEZZO_CHECK(targets.scalar_type() == at::kLong, kOp, "targets must be int64, but are {}",
              c10::toString(targets.scalar_type()));
  MEZZO_CHECK(targets.device() == x.device(), kOp,
              "targets must be on the device of x, {}, but are on {}", x.device().str(),
              targets.device().str());
  MEZZO_CHECK(options.label_smoothing >= 0.0 && options.label_smoothing <= 1.0, kOp,
              "label_smoothing must be in [0, 1], but is {}", options.label_smoothing);
  MEZZO_CHECK(options.z_loss >= 0.0, kOp, "z_loss must be >= 0, but is {}", options.z_loss);
}

/// Empty if the chunks may serve, otherwise the reason why not.
std::string refusal_of(const at::Tensor& x, const at::Tensor& weight) {
  const at::ScalarType dtype = x.scalar_type();
  const bool is_cuda = kHasCuda && x.is_cuda();
  if (!x.is_cpu() && !is_cuda) return "not on a CPU, or a GPU that this build has kernels for";
  if (weight.device() != x.device()) return "x and weight on different devices";
  if (dtype != at::kFloat && dtype != at::kBFloat16 && dtype != at::kHalf)
    return fmt::format("dtype {}", c10::toString(dtype));
  if (weight.scalar_type() != dtype) return "x and weight of different dtypes";
  // The policy has no rule for the op as a whole: then its parts are autocast, each by its own.
  if (at::autocast::is_autocast_enabled(x.device().type())) return "autocast acts on its parts";
  return "";
}

}  // namespace

LossAndGradients loss_and_gradients(const at::Tensor& x, const at::Tensor& weight,
                                    const at::Tensor& targets,
                                    const LinearCrossEntropyOptions& options,
                                    GradientsWanted wanted) {
  if constexpr (kHasCuda) {
    if (x.is_cuda()) return cuda::linear_cross_entropy(x, weight, targets, options, wanted);
  }
  return cpu::linear_cross_entropy(x, weight, targets, options, wanted);
}

at::Tensor linear_cross_entropy_op(const at::Tensor& x, const at::Tensor& weight,
                                   const at::Tensor& targets, int64_t ignore_index,
                                   double label_smoothing, double z_loss) {
  const LinearCrossEntropyOptions options{ignore_index, label_smoothing, z_loss};
  check_arguments(x, weight, targets, options);
  const std::string refusal = refusal_of(x, weight);
  if (log_enabled("dispatch")) {
    log("dispatch",
        "linear_cross_entropy: " + (refusal.empty() ? "in chunks" : "reference, for " + refusal));
  }
  if (!refusal.empty()) return reference::linear_cross_entropy(x, weight, targets, options);
  return linear_cross_entropy_autograd(x, weight, targets, options);
}

at::Tensor linear_cross_entropy(const at::Tensor& x, const at::Tensor& weight,
                                const at::Tensor& targets,
                                const LinearCrossEntropyOptions& options) {
  static const auto op = typed_op<decltype(linear_cross_entropy_op)>("mezzo::linear_cross_entropy");
  return op.call(x, weight, targets, options.ignore_index, options.label_smoothing, options.z_loss);
}

}  // namespace mezzo::kernels
