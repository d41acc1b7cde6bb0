#include "mezzo/numerics/agreement.h"

#include <algorithm>
#include <cmath>
#include <ranges>

#include "mezzo/base/float_format.h"
#include "mezzo/kernels/tensor_stats/tensor_stats.h"
#include "mezzo/numerics/ledger.h"

namespace mezzo::numerics {
namespace {

constexpr double kRoundings = 32.0;
constexpr double kGradientsDiffer = 0.5;

at::ScalarType coarsest(const Trace& trace) {
  at::ScalarType found = at::kFloat;
  for (const OpRecord& record : trace.records) {
    for (const TensorFacts& output : record.outputs) {
      if (output.dtype == at::kBFloat16) return at::kBFloat16;
      if (output.dtype == at::kHalf) found = at::kHalf;
    }
  }
  return found;
}

// The largest number of those that the loss is made of: of the forward pass' last 16-bit result
// that is more than a number. 0: there is none.
double largest_term(const Trace& trace) {
  for (const OpRecord& record : trace.records | std::views::reverse) {
    if (record.direction != Direction::kForward || record.is_recomputed) continue;
    for (const TensorFacts& output : record.outputs) {
      if (has_16_bits(output.dtype) && output.stats.numel > 1) return output.stats.largest;
    }
  }
  return 0.0;
}

// Of a and `factor` times b, as a share of the larger; 0 for two that are not there.
double relative_distance(const at::Tensor& a, const at::Tensor& b, double factor) {
  if (!a.defined() || !b.defined()) return a.defined() == b.defined() ? 0.0 : 1.0;
  const at::Tensor x = numbers_of(a).to(at::kDouble);
  const at::Tensor y = numbers_of(b).to(at::kDouble) * factor;
  if (x.sizes() != y.sizes()) return 1.0;
  const double size = std::max(x.norm().item<double>(), y.norm().item<double>());
  const double distance = (x - y).norm().item<double>();
  if (distance == 0.0) return 0.0;
  return std::isnan(distance / size) ? 1.0 : distance / size;
}

bool is_finite(const at::Tensor& tensor) {
  return !tensor.defined() || kernels::tensor_stats(numbers_of(tensor)).non_finite() == 0;
}

// One that is not finite is a sink: here it says nothing.
bool is_another(const at::Tensor& a, const at::Tensor& b, double factor = 1.0) {
  return is_finite(a) && is_finite(b) && relative_distance(a, b, factor) > kGradientsDiffer;
}

}  // namespace

bool losses_agree(const Replay& step, const Replay& reference) {
  const double u = float_format(coarsest(step.trace)).epsilon / 2;
  return std::abs(step.loss - reference.loss) <=
         kRoundings * u * std::abs(reference.loss) + u * largest_term(step.trace);
}

bool gradients_differ(const Replay& step, const Replay& reference, double factor) {
  for (size_t i = 0; i < step.grads.size() && i < reference.grads.size(); ++i) {
    if (is_another(step.grads[i], reference.grads[i], factor)) return true;
  }
  return false;
}

bool moved_otherwise(const Replay& step, const Replay& reference,
                     const std::vector<at::Tensor>& starts) {
  // Undefined: it has not moved.
  const auto movement = [&starts](const Replay& replay, size_t i) {
    const at::Tensor& end = replay.values[i];
    return end.defined() && end.is_floating_point() ? end - starts[i] : at::Tensor();
  };
  for (size_t i = 0; i < step.values.size() && i < reference.values.size(); ++i) {
    if (is_another(movement(step, i), movement(reference, i))) return true;
  }
  return false;
}

bool loses_gradients(const Replay& step, const Replay& reference) {
  for (size_t i = 0; i < step.grads.size() && i < reference.grads.size(); ++i) {
    if (!step.grads[i].defined() || !reference.grads[i].defined()) continue;
    const auto share = [](const at::Tensor& grad) {
      return share_of_zeros(kernels::tensor_stats(numbers_of(grad)));
    };
    if (share(step.grads[i]) > 0.9 && share(reference.grads[i]) < 0.5) return true;
  }
  return false;
}

}  // namespace mezzo::numerics
