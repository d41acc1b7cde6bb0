#include "mezzo/amp/overflow_report.h"

#include <algorithm>
#include <cstdint>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <ATen/ops/isfinite.h>

namespace mezzo {
namespace {

constexpr size_t kMostNamed = 5;

struct Suspect {
  std::string name;
  int64_t bad;
  int64_t all;
};

int64_t count_non_finite(const at::Tensor& values) {
  return at::isfinite(values).logical_not().sum().item<int64_t>();
}

}  // namespace

std::vector<NamedParameter> named_parameters(torch::optim::Optimizer& optimizer,
                                             const std::vector<NamedParameter>& known) {
  std::vector<NamedParameter> named;
  int64_t group_index = 0;
  for (const auto& group : optimizer.param_groups()) {
    int64_t index = 0;
    for (const at::Tensor& parameter : group.params()) {
      const auto found = std::find_if(known.begin(), known.end(), [&](const NamedParameter& item) {
        return item.second.is_same(parameter);
      });
      named.emplace_back(found != known.end()
                             ? found->first
                             : fmt::format("parameter {} of group {}, shape {}", index, group_index,
                                           fmt::join(parameter.sizes(), " x ")),
                         parameter);
      ++index;
    }
    ++group_index;
  }
  return named;
}

std::string describe_overflow(const std::vector<NamedParameter>& parameters) {
  std::vector<Suspect> suspects;
  for (const auto& [name, parameter] : parameters) {
    const at::Tensor& grad = parameter.grad();
    if (!grad.defined()) continue;
    const at::Tensor values = grad.is_sparse() ? grad._values() : grad;
    const int64_t bad = count_non_finite(values);
    if (bad > 0) suspects.push_back({name, bad, values.numel()});
  }
  std::stable_sort(suspects.begin(), suspects.end(),
                   [](const Suspect& a, const Suspect& b) { return a.bad > b.bad; });
  if (suspects.size() > kMostNamed) suspects.resize(kMostNamed);
  std::vector<std::string> words;
  for (const Suspect& suspect : suspects) {
    words.push_back(fmt::format("{} ({} of {} elements)", suspect.name, suspect.bad, suspect.all));
  }
  return fmt::format("{}", fmt::join(words, ", "));
}

}  // namespace mezzo
