#include "mezzo/numerics/scalars.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include <fmt/format.h>

#include <ATen/core/Tensor.h>

#include "mezzo/base/float_format.h"

namespace mezzo::numerics {
namespace {

bool has_format(at::ScalarType dtype) {
  return dtype == at::kDouble || dtype == at::kFloat || dtype == at::kHalf ||
         dtype == at::kBFloat16;
}

std::optional<double> number_in(const c10::IValue& argument) {
  if (argument.isDouble()) return argument.toDouble();
  if (!argument.isTensor()) return std::nullopt;
  const at::Tensor& tensor = argument.toTensor();
  const bool is_number = tensor.defined() && tensor.is_cpu() && tensor.dim() == 0 &&
                         tensor.scalar_type() == at::kDouble &&
                         tensor.unsafeGetTensorImpl()->is_wrapped_number();
  return is_number ? std::optional(*tensor.const_data_ptr<double>()) : std::nullopt;
}

// Of the tensors that a number meets: it is rounded to theirs.
std::optional<at::ScalarType> dtype_of_tensors(c10::ArrayRef<c10::IValue> arguments) {
  for (const c10::IValue& argument : arguments) {
    if (!argument.isTensor() || number_in(argument).has_value()) continue;
    const at::Tensor& tensor = argument.toTensor();
    if (tensor.defined() && has_format(tensor.scalar_type())) return tensor.scalar_type();
  }
  return std::nullopt;
}

std::optional<RoundedScalar> rounded(size_t argument, double number, at::ScalarType dtype) {
  const FloatFormat& format = float_format(dtype);
  if (number == 0.0 || !std::isfinite(number)) return std::nullopt;
  // To nearest: half the smallest number is a tie, and goes to the even one, 0.
  if (std::abs(number) <= format.smallest_subnormal / 2)
    return RoundedScalar{argument, true, fmt::format("{:g} is 0 in {}", number, format.name)};
  if (std::abs(number) >= format.max * (1 + format.epsilon / 4))
    return RoundedScalar{argument, false,
                         fmt::format("{:g} is infinite in {}", number, format.name)};
  return std::nullopt;
}

// The op that wrote this memory last, before record `before`.
int64_t writer_of(const Trace& trace, const void* memory, int64_t before) {
  for (int64_t i = before - 1; i >= 0; --i) {
    const auto& outputs = trace.record(i).outputs;
    if (std::any_of(outputs.begin(), outputs.end(),
                    [&](const TensorFacts& output) { return output.memory == memory; }))
      return i;
  }
  return -1;
}

std::string rounded_within(const Trace& trace, int64_t record, int ops) {
  for (const TensorFacts& input : trace.record(record).inputs) {
    const int64_t writer = writer_of(trace, input.memory, record);
    if (writer < 0) continue;
    const OpRecord& made = trace.record(writer);
    if (made.rounded_scalar.has_value() && made.rounded_scalar->is_zero)
      return fmt::format("{}, in {}", made.rounded_scalar->note, made.op->name);
    if (ops == 1) continue;
    if (std::string note = rounded_within(trace, writer, ops - 1); !note.empty()) return note;
  }
  return "";
}

}  // namespace

std::string rounded_scalar_before(const Trace& trace, int64_t record) {
  return rounded_within(trace, record, 3);
}

ScalarFacts scalar_facts(const OpFacts& op, c10::ArrayRef<c10::IValue> arguments) {
  ScalarFacts facts;
  const std::optional<at::ScalarType> dtype = dtype_of_tensors(arguments);
  // An op that computes in fp32 within, as norms do, may well take an eps below its dtype.
  const bool rounds = dtype.has_value() && op.is_pointwise;
  for (size_t i = 0; i < arguments.size(); ++i) {
    const std::optional<double> number = number_in(arguments[i]);
    if (!number.has_value()) continue;
    facts.has_infinity |= !std::isfinite(*number);
    if (rounds && !facts.rounded.has_value()) facts.rounded = rounded(i, *number, *dtype);
  }
  return facts;
}

}  // namespace mezzo::numerics
