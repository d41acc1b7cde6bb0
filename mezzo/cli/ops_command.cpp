#include <memory>
#include <optional>
#include <set>
#include <string>

#include <fmt/format.h>

#include "mezzo/amp/cast_policy.h"
#include "mezzo/amp/cast_table.h"
#include "mezzo/cli/commands.h"

namespace mezzo::cli {
namespace {

struct OpsOptions {
  std::string policy = "mezzo";
  std::string rules;
  std::string device = "cpu";
  std::string diff;
};

std::string rule_text(const CastPolicy& policy, const std::string& op, c10::DeviceType device) {
  const std::optional<CastRule> rule = policy.rule(op, device);
  return rule.has_value() ? std::string(name_of(*rule)) : "-";
}

std::set<std::string> ops_of(const CastPolicy& policy) {
  std::set<std::string> ops;
  for (const CastTableRow& row : cast_table()) ops.emplace(row.op);
  for (const CastPolicy::Override& change : policy.overrides()) ops.insert(change.op);
  return ops;
}

void print_rules(const OpsOptions& options) {
  const CastPolicy policy = CastPolicy::preset(options.policy).set_rules(options.rules);
  const c10::DeviceType device = options.device == "cuda" ? at::kCUDA : at::kCPU;
  const bool is_diff = !options.diff.empty();
  const CastPolicy other = CastPolicy::preset(is_diff ? options.diff : options.policy);
  std::string lines;
  for (const std::string& op : ops_of(policy)) {
    const std::string rule = rule_text(policy, op, device), others = rule_text(other, op, device);
    if (is_diff ? rule == others : rule == "-") continue;
    lines += fmt::format("{:<42} {:<18} {}\n", op, rule, is_diff ? others : "");
  }
  for (const CastPolicy::Override& change : policy.overrides()) {
    if (change.scope.empty()) continue;
    lines += fmt::format("{:<42} {}\n", change.scope + ":" + change.op, name_of(change.rule));
  }
  if (lines.empty()) {
    fmt::print("no differences between {} and {} on {}\n", options.policy, options.diff,
               options.device);
    return;
  }
  fmt::print("{:<42} {:<18} {}\n{}", fmt::format("op (on {})", options.device), options.policy,
             options.diff, lines);
}

}  // namespace

void add_ops_command(CLI::App& app, int& exit_code) {
  CLI::App* ops = app.add_subcommand("ops", "which op runs in which dtype under autocast");
  const auto options = std::make_shared<OpsOptions>();
  ops->footer(
      "lower              arguments in the region's 16-bit type\n"
      "fp32               arguments in fp32\n"
      "fp32_set_dtype     dtype = fp32 where the caller gave none\n"
      "fp32_append_dtype  the overload with a dtype, with fp32\n"
      "promote            arguments in the widest type among them\n"
      "pass, -            as the arguments come\n"
      "banned             an error that says what to use instead");
  ops->add_option("--policy", options->policy, "mezzo, pytorch-cuda or pytorch-cpu (mezzo)");
  ops->add_option("--cast-rules", options->rules, "changes to the policy, as in mezzo train");
  ops->add_option("--device", options->device, "cpu or cuda (cpu)")
      ->check(CLI::IsMember({"cpu", "cuda"}));
  ops->add_option("--diff", options->diff,
                  "show only ops for which this other policy has a different rule");
  ops->callback([&exit_code, options] {
    print_rules(*options);
    exit_code = kOk;
  });
}

}  // namespace mezzo::cli
