#include "mezzo/models/norm_linear.h"

#include "mezzo/base/scope.h"
#include "mezzo/kernels/fp8/fused.h"
#include "mezzo/kernels/fused_linear/residual_norm_linear.h"

namespace mezzo::models {
namespace {

using SumAndResult = std::tuple<at::Tensor, at::Tensor>;

SumAndResult fused(const Residual& in, LayerNorm& norm, Linear& linear, bool recomputes) {
  if (linear->is_fp8_for(in.x))
    return kernels::residual_norm_fp8_linear(
        in.x, optional(in.branch), norm->weight, optional(norm->bias), linear->weight,
        optional(linear->bias), LayerNormImpl::kEps, recomputes, linear->fp8);
  return kernels::residual_norm_linear(in.x, optional(in.branch), norm->weight,
                                       optional(norm->bias), linear->weight, optional(linear->bias),
                                       LayerNormImpl::kEps, recomputes);
}

SumAndResult fused(const Residual& in, RMSNorm& norm, Linear& linear, bool recomputes) {
  if (linear->is_fp8_for(in.x))
    return kernels::residual_rms_norm_fp8_linear(in.x, optional(in.branch), norm->weight,
                                                 linear->weight, optional(linear->bias), norm->eps,
                                                 recomputes, linear->fp8);
  return kernels::residual_rms_norm_linear(in.x, optional(in.branch), norm->weight, linear->weight,
                                           optional(linear->bias), norm->eps, recomputes);
}

template <class Norm>
SumAndResult of_any(std::string_view name, const Residual& in, Norm& norm, Linear& linear,
                    const BlockOps& ops) {
  if (!ops.is_fused) {
    const at::Tensor sum = in.sum(), normed = norm(sum);
    const Scope scope(name);
    return {sum, linear(normed)};
  }
  const Scope scope(name);
  return fused(in, norm, linear, ops.recomputes);
}

}  // namespace

SumAndResult norm_linear(std::string_view name, const Residual& in, LayerNorm& norm, Linear& linear,
                         const BlockOps& ops) {
  return of_any(name, in, norm, linear, ops);
}

SumAndResult norm_linear(std::string_view name, const Residual& in, RMSNorm& norm, Linear& linear,
                         const BlockOps& ops) {
  return of_any(name, in, norm, linear, ops);
}

}  // namespace mezzo::models
