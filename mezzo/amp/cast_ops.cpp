#include "mezzo/amp/cast_ops.h"

#include <algorithm>

#include <ATen/core/dispatch/Dispatcher.h>

#include "mezzo/base/check.h"
#include "mezzo/base/nearest.h"

namespace mezzo {
namespace {

std::string name_of(const c10::OperatorName& name) {
  const std::string_view space = "aten::";
  std::string text = name.name.starts_with(space) ? name.name.substr(space.size()) : name.name;
  if (!name.overload_name.empty()) text += "." + name.overload_name;
  return text;
}

std::string with_namespace(std::string_view op) {
  const bool has_namespace = op.find("::") != std::string_view::npos;
  return (has_namespace ? "" : "aten::") + std::string(op);
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

std::string without_namespace(std::string_view op) {
  return std::string(op.starts_with("aten::") ? op.substr(6) : op);
}

}  // namespace

std::vector<std::string> overloads_of(std::string_view op) {
  const std::string wanted = without_namespace(op);
  const bool has_overload = wanted.find('.') != std::string::npos;
  std::vector<std::string> overloads, names;
  for (const c10::OperatorName& name : c10::Dispatcher::singleton().getAllOpNames()) {
    const std::string full = name_of(name);
    if (has_overload && full == wanted) return {full};
    names.push_back(full.substr(0, full.find('.')));
    if (name.name != with_namespace(wanted)) continue;
    const auto handle = c10::Dispatcher::singleton().findSchema(name);
    if (!handle.has_value()) continue;
    const c10::FunctionSchema& schema = handle->schema();
    if (!writes_into_arguments(schema) && has_tensors(schema)) overloads.push_back(full);
  }
  const bool is_known =
      !has_overload && std::find(names.begin(), names.end(), wanted) != names.end();
  MEZZO_CHECK(!overloads.empty() || !is_known, "CastPolicy",
              "all overloads of '{}' write into an argument or have no tensors. Hint: name one, as "
              "'{}.Tensor', for pass or banned",
              op, op);
  MEZZO_CHECK(!overloads.empty(), "CastPolicy", "'{}' is no op that libtorch knows{}", op,
              did_you_mean(wanted, names));
  std::sort(overloads.begin(), overloads.end());
  return overloads;
}

void check_op_takes(const std::string& op, CastRule rule) {
  if (rule == CastRule::kPass || rule == CastRule::kBanned) return;
  const std::string full = with_namespace(op);
  const size_t dot = full.find('.');
  const auto handle = c10::Dispatcher::singleton().findSchemaOrThrow(
      full.substr(0, dot).c_str(), dot == std::string::npos ? "" : full.substr(dot + 1).c_str());
  const c10::FunctionSchema& schema = handle.schema();
  MEZZO_CHECK(!writes_into_arguments(schema), "CastPolicy",
              "{} writes into an argument, and a cast would make it write into a copy: it can take "
              "pass and banned, but not {}",
              op, name_of(rule));
  MEZZO_CHECK(has_tensors(schema), "CastPolicy", "{} has no tensor argument to cast", op);
  if (rule == CastRule::kFp32SetDtype) {
    MEZZO_CHECK(schema.argumentIndexWithName("dtype").has_value(), "CastPolicy",
                "{} has no argument dtype that fp32_set_dtype could set. Hint: fp32", op);
  }
  if (rule == CastRule::kFp32AppendDtype) {
    MEZZO_CHECK(
        op == "norm.Scalar" || op == "norm.ScalarOpt_dim" || op == "norm.names_ScalarOpt_dim",
        "CastPolicy",
        "{} has no overload with a dtype that fp32_append_dtype could call. Hint: fp32", op);
  }
}

}  // namespace mezzo
