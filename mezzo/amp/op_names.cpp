#include "mezzo/amp/op_names.h"

#include <algorithm>

#include "mezzo/base/check.h"
#include "mezzo/base/nearest.h"

namespace mezzo {
namespace {

constexpr std::string_view kAten = "aten::";

// dispatcher_name()'s inverse.
std::string policy_name(const c10::OperatorName& name) {
  std::string text = name.name.starts_with(kAten) ? name.name.substr(kAten.size()) : name.name;
  if (!name.overload_name.empty()) text += "." + name.overload_name;
  return text;
}

bool writes_into_arguments(const c10::FunctionSchema& schema) {
  return std::any_of(schema.arguments().begin(), schema.arguments().end(),
                     [](const auto& argument) {
                       return argument.alias_info() != nullptr && argument.alias_info()->isWrite();
                     });
}

bool has_tensors(const c10::FunctionSchema& schema) {
  return std::any_of(schema.arguments().begin(), schema.arguments().end(),
                     [](const auto& argument) {
                       return argument.type()->str().find("Tensor") != std::string::npos;
                     });
}

}  // namespace

c10::OperatorName dispatcher_name(std::string_view op) {
  const auto [name, overload] = c10::OperatorNameView::parse(op);
  const bool has_namespace = name.find("::") != std::string_view::npos;
  return {(has_namespace ? "" : std::string(kAten)) + std::string(name), std::string(overload)};
}

std::vector<std::string> overloads_of(std::string_view op) {
  const c10::OperatorName wanted = dispatcher_name(op);
  const bool has_overload = !wanted.overload_name.empty();
  std::vector<std::string> overloads, names;
  for (const c10::OperatorName& name : c10::Dispatcher::singleton().getAllOpNames()) {
    if (has_overload && name == wanted) return {policy_name(name)};
    names.push_back(policy_name({name.name, ""}));
    if (has_overload || name.name != wanted.name) continue;
    const auto handle = c10::Dispatcher::singleton().findSchema(name);
    if (!handle.has_value()) continue;
    const c10::FunctionSchema& schema = handle->schema();
    if (!writes_into_arguments(schema) && has_tensors(schema))
      overloads.push_back(policy_name(name));
  }
  const std::string known_as = policy_name(wanted);
  const bool is_known =
      !has_overload && std::find(names.begin(), names.end(), known_as) != names.end();
  MEZZO_CHECK_USAGE(
      !overloads.empty() || !is_known, "CastPolicy",
      "all overloads of '{}' write into an argument or have no tensors. Hint: name one, as "
      "'{}.Tensor', for pass or banned",
      op, op);
  MEZZO_CHECK_USAGE(!overloads.empty(), "CastPolicy", "'{}' is no op that libtorch knows{}", op,
                    did_you_mean(known_as, names));
  std::sort(overloads.begin(), overloads.end());
  return overloads;
}

std::optional<c10::OperatorHandle> overload_with_dtype(std::string_view op) {
  const auto find = [](const char* overload) {
    return c10::Dispatcher::singleton().findSchema({"aten::norm", overload});
  };
  if (op == "norm.Scalar") return find("ScalarOpt_dtype");
  if (op == "norm.ScalarOpt_dim") return find("ScalarOpt_dim_dtype");
  if (op == "norm.names_ScalarOpt_dim") return find("names_ScalarOpt_dim_dtype");
  return std::nullopt;
}

void check_op_takes(const std::string& op, CastRule rule) {
  if (rule == CastRule::kPass || rule == CastRule::kBanned) return;
  const c10::OperatorName name = dispatcher_name(op);
  const auto handle =
      c10::Dispatcher::singleton().findSchemaOrThrow(name.name.c_str(), name.overload_name.c_str());
  const c10::FunctionSchema& schema = handle.schema();
  MEZZO_CHECK_USAGE(
      !writes_into_arguments(schema), "CastPolicy",
      "{} writes into an argument, and a cast would make it write into a copy: it can take "
      "pass and banned, but not {}",
      op, name_of(rule));
  MEZZO_CHECK_USAGE(has_tensors(schema), "CastPolicy", "{} has no tensor argument to cast", op);
  if (rule == CastRule::kFp32SetDtype) {
    MEZZO_CHECK_USAGE(schema.argumentIndexWithName("dtype").has_value(), "CastPolicy",
                      "{} has no argument dtype that fp32_set_dtype could set. Hint: fp32", op);
  }
  if (rule == CastRule::kFp32AppendDtype) {
    MEZZO_CHECK_USAGE(
        overload_with_dtype(op).has_value(), "CastPolicy",
        "{} has no overload with a dtype that fp32_append_dtype could call. Hint: fp32", op);
  }
}

}  // namespace mezzo
