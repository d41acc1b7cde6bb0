#include "mezzo/amp/cast_policy.h"

#include <algorithm>
#include <map>
#include <utility>

#include <fmt/ranges.h>

#include "mezzo/amp/cast_kernel.h"
#include "mezzo/amp/cast_table.h"
#include "mezzo/amp/op_names.h"
#include "mezzo/base/check.h"
#include "mezzo/base/nearest.h"
#include "mezzo/base/scope.h"

namespace mezzo {
namespace {

std::string_view trimmed(std::string_view text) {
  const size_t begin = text.find_first_not_of(" \t\n");
  if (begin == std::string_view::npos) return "";
  return text.substr(begin, text.find_last_not_of(" \t\n") - begin + 1);
}

std::string without_overload(const std::string& op) { return op.substr(0, op.find('.')); }

std::optional<CastRule> rule_in_row(const CastTableRow& row, std::string_view policy,
                                    c10::DeviceType device) {
  if (policy == "pytorch-cpu") return row.pytorch_cpu;
  if (policy == "pytorch-cuda") return row.pytorch_cuda;
  return row.is_own() || device == c10::DeviceType::CPU ? row.mezzo : row.pytorch_cuda;
}

std::shared_ptr<const CastPolicy>& guarded() {
  thread_local std::shared_ptr<const CastPolicy> policy;
  return policy;
}

}  // namespace

const std::vector<std::string>& CastPolicy::preset_names() {
  static const std::vector<std::string> names = {"mezzo", "pytorch-cuda", "pytorch-cpu"};
  return names;
}

CastPolicy CastPolicy::preset(std::string_view name) {
  const std::vector<std::string>& names = preset_names();
  if (std::find(names.begin(), names.end(), name) == names.end()) {
    detail::fail<UsageError>("cast policy", "must be one of {}, but is '{}'{}",
                             fmt::join(names, ", "), name, did_you_mean(name, names));
  }
  return CastPolicy(std::string(name));
}

CastPolicy CastPolicy::mezzo() { return preset("mezzo"); }
CastPolicy CastPolicy::pytorch_cuda() { return preset("pytorch-cuda"); }
CastPolicy CastPolicy::pytorch_cpu() { return preset("pytorch-cpu"); }

CastPolicy CastPolicy::current() { return guarded() == nullptr ? mezzo() : *guarded(); }

CastPolicy& CastPolicy::set(std::string_view op, CastRule rule, std::string_view scope) {
  const std::vector<std::string> overloads = overloads_of(op);
  for (const std::string& overload : overloads) check_op_takes(overload, rule);
  for (const std::string& overload : overloads) {
    install_cast_kernel(overload);
    overrides_.push_back({overload, rule, std::string(scope)});
  }
  return *this;
}

CastPolicy& CastPolicy::set_rules(std::string_view rules) {
  while (!trimmed(rules).empty()) {
    const size_t comma = rules.find(',');
    const std::string_view one = trimmed(rules.substr(0, comma));
    rules.remove_prefix(comma == std::string_view::npos ? rules.size() : comma + 1);
    const size_t equals = one.find('=');
    if (one.empty()) continue;
    MEZZO_CHECK_USAGE(equals != std::string_view::npos, "cast-rules",
                      "must read [scope:]op=rule, ..., but '{}' does not", one);
    std::string_view op = trimmed(one.substr(0, equals)), scope;
    // A single colon ends the scope; a double one belongs to the op's namespace.
    for (size_t colon = op.find(':'); colon != std::string_view::npos;
         colon = op.find(':', colon)) {
      if (op.substr(colon).starts_with("::")) {
        colon += 2;
        continue;
      }
      scope = trimmed(op.substr(0, colon));
      op = trimmed(op.substr(colon + 1));
      break;
    }
    set(op, cast_rule(trimmed(one.substr(equals + 1))), scope);
  }
  return *this;
}

std::optional<CastRule> CastPolicy::rule(std::string_view op, c10::DeviceType device,
                                         std::string_view scope) const {
  for (auto it = overrides_.rbegin(); it != overrides_.rend(); ++it) {
    if (it->op == op && is_in_scope(scope, it->scope)) return it->rule;
  }
  for (const CastTableRow& row : cast_table()) {
    if (row.op == op) return rule_in_row(row, name_, device);
  }
  return std::nullopt;
}

std::string to_string(const CastPolicy::Override& rule) {
  return fmt::format("{}{}{}={}", rule.scope, rule.scope.empty() ? "" : ":", rule.op,
                     name_of(rule.rule));
}

CastPolicyGuard::CastPolicyGuard(const CastPolicy& policy)
    : CastPolicyGuard(std::make_shared<const CastPolicy>(policy)) {}

CastPolicyGuard::CastPolicyGuard(std::shared_ptr<const CastPolicy> policy)
    : outer_(std::exchange(guarded(), std::move(policy))) {
  install_cast_kernels();
  forget_resolved_rules();
}

CastPolicyGuard::~CastPolicyGuard() {
  guarded() = std::move(outer_);
  forget_resolved_rules();
}

const std::shared_ptr<const CastPolicy>& guarded_policy() { return guarded(); }

std::vector<std::string> unmet_cast_rules() {
  if (guarded_policy() == nullptr) return {};
  std::map<std::string, bool> rules;  // whether one of its overloads has met it
  for (const CastPolicy::Override& rule : guarded_policy()->overrides()) {
    bool& is_met = rules[to_string({without_overload(rule.op), rule.rule, rule.scope})];
    is_met = is_met || std::any_of(ops_met().begin(), ops_met().end(), [&](const MetOp& met) {
               return met.first == rule.op && is_in_scope(met.second, rule.scope);
             });
  }
  std::vector<std::string> unmet;
  for (const auto& [rule, is_met] : rules) {
    if (!is_met) unmet.push_back(rule);
  }
  return unmet;
}

}  // namespace mezzo
