#include "mezzo/amp/cast_rule.h"

#include <array>

#include <fmt/ranges.h>

#include "mezzo/base/check.h"
#include "mezzo/base/nearest.h"

namespace mezzo {
namespace {

constexpr std::array<std::string_view, 7> kNames = {
    "lower", "fp32", "fp32_set_dtype", "fp32_append_dtype", "promote", "pass", "banned"};

}  // namespace

std::string_view name_of(CastRule rule) { return kNames[static_cast<size_t>(rule)]; }

CastRule cast_rule(std::string_view name) {
  for (size_t i = 0; i < kNames.size(); ++i) {
    if (kNames[i] == name) return static_cast<CastRule>(i);
  }
  detail::fail<UsageError>("cast-rules", "must be one of {}, but is '{}'{}",
                           fmt::join(kNames, ", "), name,
                           did_you_mean(name, {kNames.begin(), kNames.end()}));
}

}  // namespace mezzo
