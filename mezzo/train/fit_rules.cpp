#include <algorithm>
#include <cmath>
#include <map>

#include <fmt/format.h>

#include "mezzo/amp/cast_policy.h"
#include "mezzo/base/float_format.h"
#include "mezzo/train/fit.h"
#include "mezzo/train/health.h"

namespace mezzo::train {
namespace {

constexpr double kMarginBits = 2.0;
constexpr double kMaxUnderflow = 0.01;

double headroom_bits(const numerics::Magnitudes& m, const FloatFormat& format, double scale) {
  return m.largest > 0 ? std::log2(format.max / (m.largest * scale)) : std::log2(format.max);
}

/// A power of two that keeps the largest of all gradients two powers below the end of the range.
double scale_of_gradients(const std::vector<SeenOp>& ops, const FloatFormat& format) {
  double largest = 0.0;
  for (const SeenOp& op : ops) largest = std::max(largest, op.gradients.magnitudes.largest);
  if (!(largest > 0)) return 1.0;
  const double bits = std::floor(std::log2(format.max / largest) - kMarginBits);
  return std::exp2(std::clamp(bits, 0.0, 24.0));  // as a loss scale would be
}

struct Judgement {
  std::string harm;  // empty: the numbers fit
  double margin_bits = 0.0;
};

Judgement judge_range(const char* what, const numerics::Magnitudes& m, const FloatFormat& format,
                      double scale) {
  Judgement judgement;
  judgement.margin_bits = headroom_bits(m, format, scale);
  const double lost = underflow(m, format, scale);
  const std::string at = scale == 1.0 ? "" : fmt::format(" at scale {:g}", scale);
  if (judgement.margin_bits < kMarginBits) {
    judgement.harm = fmt::format("{} reach {:.3g}{}, {}'s largest number is {:.5g}", what,
                                 m.largest * scale, at, format.name, format.max);
  } else if (lost > kMaxUnderflow) {
    judgement.harm =
        fmt::format("{:.1f} % of its {} underflow in {}{}", 100 * lost, what, format.name, at);
  }
  return judgement;
}

Judgement judge(const SeenOp& op, const FloatFormat& format, double scale) {
  const Judgement forward = judge_range("activations", op.activations.magnitudes, format, 1.0);
  const Judgement backward = judge_range("gradients", op.gradients.magnitudes, format, scale);
  return {forward.harm.empty() ? backward.harm : forward.harm,
          std::min(forward.margin_bits, backward.margin_bits)};
}

bool is_kept_in_fp32(const SeenOp& op) {
  return op.dtype == at::kFloat && op.rule.has_value() &&
         (*op.rule == CastRule::kFp32 || *op.rule == CastRule::kFp32SetDtype);
}

std::optional<FittedRule> propose(const SeenOp& op, at::ScalarType lower, double scale) {
  const FloatFormat& format = float_format(lower);
  const Judgement judgement = judge(op, format, scale);
  if (op.dtype == lower && !judgement.harm.empty())
    return FittedRule{op.scope, op.op, CastRule::kFp32, judgement.harm};
  if (is_kept_in_fp32(op) && judgement.harm.empty())
    return FittedRule{
        op.scope, op.op, CastRule::kLower,
        fmt::format("{:.1f} powers of two are left in {}", judgement.margin_bits, format.name),
        judgement.margin_bits};
  return std::nullopt;
}

/// "h.3.attn" -> "h.*.attn"
std::string pattern_of(const std::string& scope) {
  std::string pattern;
  for (size_t begin = 0; begin <= scope.size();) {
    const size_t end = std::min(scope.find('.', begin), scope.size());
    const std::string name = scope.substr(begin, end - begin);
    const bool is_number = !name.empty() && name.find_first_not_of("0123456789") == name.npos;
    if (begin > 0) pattern.push_back('.');
    pattern.append(is_number ? "*" : name);
    begin = end + 1;
  }
  return pattern;
}

}  // namespace

std::string to_string(const FittedRule& rule) {
  return mezzo::to_string(CastPolicy::Override{rule.op, rule.rule, rule.scope});
}

std::vector<FittedRule> propose_rules(const std::vector<SeenOp>& ops, at::ScalarType lower) {
  const double scale = lower == at::kHalf ? scale_of_gradients(ops, float_format(lower)) : 1.0;
  using Group = std::pair<std::string, std::string>;
  std::map<Group, std::vector<FittedRule>> proposed;
  std::map<Group, size_t> seen;
  for (const SeenOp& op : ops) {
    const Group group(pattern_of(op.scope), op.op);
    ++seen[group];
    if (auto rule = propose(op, lower, scale)) proposed[group].push_back(std::move(*rule));
  }
  std::vector<FittedRule> rules;
  for (auto& [group, of_group] : proposed) {
    const auto other = [&](const FittedRule& rule) { return rule.rule != of_group.front().rule; };
    const bool agree =
        of_group.size() == seen.at(group) && std::none_of(of_group.begin(), of_group.end(), other);
    if (!agree) {
      rules.insert(rules.end(), of_group.begin(), of_group.end());
      continue;
    }
    const auto less = [](const FittedRule& a, const FittedRule& b) {
      return a.margin_bits < b.margin_bits;
    };
    FittedRule rule = *std::min_element(of_group.begin(), of_group.end(), less);
    rule.scope = group.first;
    rules.push_back(std::move(rule));
  }
  std::stable_sort(rules.begin(), rules.end(), [](const FittedRule& a, const FittedRule& b) {
    const bool a_lowers = a.rule == CastRule::kLower, b_lowers = b.rule == CastRule::kLower;
    return a_lowers != b_lowers ? b_lowers : a.margin_bits > b.margin_bits;
  });
  return rules;
}

}  // namespace mezzo::train
