#include "mezzo/numerics/domain.h"

#include <algorithm>
#include <limits>

#include <ATen/ops/clamp.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros_like.h>

#include "mezzo/base/float_format.h"

namespace mezzo::numerics {
namespace {

// Above it a root's or a logarithm's slope is still finite in the dtype.
double floor_of(const at::Tensor& tensor) {
  return tensor.scalar_type() == at::kHalf ? 0x1p-14 : 1e-6;
}

at::Tensor at_least_floor(const at::Tensor& x) { return x.clamp_min(floor_of(x)); }

// A distance from 1 that rounding to the dtype leaves.
double margin_at_one(const at::Tensor& x) { return 2 * float_format(x.scalar_type()).epsilon; }

at::Tensor above_minus_one(const at::Tensor& x) { return x.clamp_min(-1 + margin_at_one(x)); }

at::Tensor within_one(const at::Tensor& x) {
  const double one = 1 - margin_at_one(x);
  return at::clamp(x, -one, one);
}

at::Tensor between_zero_and_one(const at::Tensor& x) {
  return at::clamp(x, margin_at_one(x), 1 - margin_at_one(x));
}

at::Tensor not_zero(const at::Tensor& x) { return at::where(x.eq(0), at::ones_like(x), x); }
at::Tensor away_from_zero(const at::Tensor& x) { return x + floor_of(x); }

// Rows of which no entry counts, along the last dimension.
at::Tensor with_some_entry(const at::Tensor& x) {
  const double minus_infinity = -std::numeric_limits<double>::infinity();
  const at::Tensor is_empty = x.eq(minus_infinity).all(-1, /*keepdim=*/true);
  return at::where(is_empty, at::zeros_like(x), x);
}

using Repair = at::Tensor (*)(const at::Tensor&);

struct Domain {
  std::vector<std::string> ops;
  size_t argument;
  Repair repair;
  const char* advice;
};

const std::vector<Domain>& domains() {
  static const auto& all = *new std::vector<Domain>{
      {{"log", "log2", "log10", "lgamma", "digamma"},
       0,
       at_least_floor,
       "clamp what it reads: x.clamp_min(1e-6), or use log_softmax or log1p; where the rest is "
       "masked "
       "out, mask before it, not after"},
      {{"xlogy"},
       1,
       at_least_floor,
       "clamp what its logarithm reads: at::xlogy(x, y.clamp_min(1e-6))"},
      {{"log1p"}, 0, above_minus_one, "clamp what it reads above -1"},
      {{"sqrt", "rsqrt", "pow"},
       0,
       at_least_floor,
       "add an eps before it: (x + 1e-6).sqrt(); its slope at 0 is infinite, and below 0 there is "
       "no root"},
      {{"div", "true_divide", "floor_divide", "fmod", "remainder", "atan2"},
       1,
       not_zero,
       "guard the divisor: clamp_min(1) for a count, + eps for a norm or a deviation"},
      {{"reciprocal"}, 0, not_zero, "guard the divisor: + eps, or clamp_min"},
      {{"acos", "asin", "atanh", "erfinv"},
       0,
       within_one,
       "clamp what it reads inside (-1, 1): rounding pushes it out, and the slope there is "
       "infinite"},
      {{"logit"},
       0,
       between_zero_and_one,
       "clamp what it reads inside (0, 1): at::logit(x, eps), eps a step of the dtype at 1"},
      {{"norm", "linalg_vector_norm", "linalg_norm", "std", "var_mean", "std_mean",
        "cosine_similarity", "cdist", "_cdist_forward", "frobenius_norm", "pairwise_distance"},
       0,
       away_from_zero,
       "add an eps under the root: its slope at zero is 0 / 0"},
      {{"softmax", "_softmax", "log_softmax", "_log_softmax", "logsumexp"},
       0,
       with_some_entry,
       "leave each row an entry that counts (the diagonal), or skip the rows without"},
  };
  return all;
}

const Domain* domain_of(const std::string& base) {
  for (const Domain& domain : domains()) {
    if (std::find(domain.ops.begin(), domain.ops.end(), base) != domain.ops.end()) return &domain;
  }
  return nullptr;
}

constexpr int64_t kMean = 1, kSum = 2;  // at::Reduction's

bool averages(const std::string& base) {
  return base.find("loss") != std::string::npos || base.find("cross_entropy") != std::string::npos;
}

}  // namespace

std::string domain_advice(const std::string& op) {
  const std::string base = base_name(op);
  if (averages(base))
    return "divide the sum by max(count, 1), or leave out a batch of which nothing counts";
  const Domain* domain = domain_of(base);
  return domain == nullptr ? "" : domain->advice;
}

void keep_in_domain(const std::string& op, torch::jit::Stack& stack,
                    const c10::FunctionSchema& schema) {
  const std::string base = base_name(op);
  const size_t first = stack.size() - schema.arguments().size();
  if (averages(base)) {
    for (size_t i = 0; i < schema.arguments().size(); ++i) {
      if (schema.arguments()[i].name() == "reduction" && stack[first + i].toInt() == kMean)
        stack[first + i] = kSum;
    }
    return;
  }
  const Domain* domain = domain_of(base);
  if (domain == nullptr || schema.is_mutable()) return;
  c10::IValue& argument = stack[first + domain->argument];
  if (!argument.isTensor()) return;
  // An integer, such as a count, may divide.
  if (!argument.toTensor().is_floating_point() && domain->repair != &not_zero) return;
  argument = domain->repair(argument.toTensor());
}

void keep_result_in_domain(const std::string& op, const at::Tensor& result) {
  if (op == "mezzo::linear_cross_entropy") result.masked_fill_(result.isnan(), 0.0);
}

}  // namespace mezzo::numerics
