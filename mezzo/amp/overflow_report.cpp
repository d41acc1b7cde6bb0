#include "mezzo/amp/overflow_report.h"

#include <algorithm>
#include <cctype>
#include <string_view>

#include <fmt/format.h>
#include <fmt/ranges.h>

namespace mezzo {
namespace {

constexpr size_t kMostNamed = 5;

bool is_bad(const GradientFacts& gradient) { return gradient.facts.non_finite() > 0; }

std::vector<GradientFacts> bad_ones(const std::vector<GradientFacts>& gradients) {
  std::vector<GradientFacts> bad;
  std::copy_if(gradients.begin(), gradients.end(), std::back_inserter(bad), is_bad);
  return bad;
}

/// The layer of a parameter: "h.7" of "h.7.mlp.c_fc.weight", "ln_f" of "ln_f.weight".
std::string_view layer_of(std::string_view name) {
  size_t begin = 0;
  for (size_t dot = name.find('.'); dot != name.npos; dot = name.find('.', begin)) {
    const std::string_view part = name.substr(begin, dot - begin);
    const bool is_number =
        std::all_of(part.begin(), part.end(), [](unsigned char c) { return std::isdigit(c) != 0; });
    if (is_number) return name.substr(0, dot);
    begin = dot + 1;
  }
  return name.substr(0, begin == 0 ? name.size() : begin - 1);
}

}  // namespace

std::string describe_overflow(const std::vector<GradientFacts>& gradients) {
  std::vector<GradientFacts> worst = bad_ones(gradients);
  std::stable_sort(worst.begin(), worst.end(), [](const auto& a, const auto& b) {
    return a.facts.non_finite() > b.facts.non_finite();
  });
  if (worst.size() > kMostNamed) worst.resize(kMostNamed);
  std::vector<std::string> words;
  for (const auto& [name, facts] : worst)
    words.push_back(fmt::format("{} ({} of {} elements)", name, facts.non_finite(), facts.numel));
  return fmt::format("{}", fmt::join(words, ", "));
}

std::string name_overflow(const std::vector<GradientFacts>& gradients) {
  const std::vector<GradientFacts> bad = bad_ones(gradients);
  if (bad.empty()) return "";
  const auto& [name, facts] = bad.back();
  const char* kind = facts.nan == facts.non_finite() ? "nan" : "inf";
  const std::string more = bad.size() > 1 ? fmt::format(" (+{})", bad.size() - 1) : "";
  return fmt::format("{} in {}{}", kind, name, more);
}

std::string overflow_origin(const std::vector<GradientFacts>& gradients, bool is_loss_finite) {
  const auto nearest = std::find_if(gradients.rbegin(), gradients.rend(), is_bad);
  if (nearest == gradients.rend()) return "";
  if (!is_loss_finite) return "in the loss or the forward pass";
  if (std::all_of(gradients.begin(), gradients.end(), is_bad))
    return "from the loss down: born in backward";
  const std::string_view layer = layer_of(nearest->name);
  const auto first = std::find_if(gradients.begin(), gradients.end(), [&](const auto& gradient) {
    return layer_of(gradient.name) == layer;
  });
  // One parameter alone may have overflowed in its own sum.
  const bool is_all_below =
      first != gradients.begin() && std::all_of(gradients.begin(), first, is_bad);
  return is_all_below ? fmt::format("from {} down: born in backward there", layer) : "";
}

}  // namespace mezzo
