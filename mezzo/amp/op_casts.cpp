#include "mezzo/amp/op_casts.h"

#include <utility>

#include <ATen/autocast_mode.h>
#include <ATen/core/grad_mode.h>

#include "mezzo/amp/cast_cache.h"
#include "mezzo/amp/cast_table.h"
#include "mezzo/amp/op_names.h"
#include "mezzo/base/check.h"
#include "mezzo/base/ivalue_tensors.h"

namespace mezzo {

OpCasts::OpCasts(const c10::OperatorHandle& handle, std::string op, c10::DeviceType device)
    : handle_(handle),
      with_dtype_(overload_with_dtype(op)),
      op_(std::move(op)),
      device_(device),
      argument_count_(handle.schema().arguments().size()),
      dtype_index_(handle.schema().argumentIndexWithName("dtype")) {
  for (const c10::Argument& argument : handle.schema().arguments()) {
    is_cast_.push_back(!argument.name().starts_with("wide_"));
    is_statistics_.push_back(argument.name().starts_with("running_"));
  }
  for (const char* name : {"training", "use_input_stats"}) {
    if (const auto index = handle.schema().argumentIndexWithName(name)) trains_index_ = index;
  }
}

void OpCasts::call(CastRule rule, torch::jit::Stack* stack) const {
  std::vector<Updated> updated;
  switch (rule) {
    case CastRule::kLower:
      updated = cast_arguments(at::autocast::get_autocast_dtype(device_), *stack);
      break;
    case CastRule::kFp32:
      updated = cast_arguments(at::kFloat, *stack);
      break;
    case CastRule::kPromote:
      updated = cast_arguments(widest(*stack), *stack);
      break;
    case CastRule::kFp32SetDtype:
      if (first_argument_is_eligible(*stack)) {
        c10::IValue& dtype = (*stack)[stack->size() - argument_count_ + *dtype_index_];
        if (dtype.isNone()) dtype = at::kFloat;
      }
      break;
    case CastRule::kFp32AppendDtype: {
      const c10::IValue& first = (*stack)[stack->size() - argument_count_];
      stack->emplace_back(first_argument_is_eligible(*stack) ? at::kFloat
                                                             : first.toTensor().scalar_type());
      with_dtype_->callBoxed(stack);
      return;
    }
    case CastRule::kBanned:
      detail::fail<Error>("Autocast", "{} is not safe under autocast. Hint: {}", op_,
                          instead_of_banned(op_));
    case CastRule::kPass:
      MEZZO_INTERNAL_CHECK(rule != CastRule::kPass);
  }
  handle_.callBoxed(stack);
  if (updated.empty()) return;
  const at::NoGradGuard no_grad;
  for (const Updated& of : updated) of.statistics.copy_(of.cast);
}

bool OpCasts::first_argument_is_eligible(const torch::jit::Stack& stack) const {
  const c10::IValue& first = stack[stack.size() - argument_count_];
  return first.isTensor() && at::autocast::is_eligible(first.toTensor(), device_);
}

bool OpCasts::updates_statistics(const torch::jit::Stack& stack) const {
  return trains_index_.has_value() &&
         stack[stack.size() - argument_count_ + *trains_index_].toBool();
}

std::vector<OpCasts::Updated> OpCasts::cast_arguments(at::ScalarType dtype,
                                                      torch::jit::Stack& stack) const {
  const bool updates = updates_statistics(stack);
  std::vector<Updated> updated;
  for (size_t i = 0; i < argument_count_; ++i) {
    if (!is_cast_[i]) continue;
    c10::IValue& argument = stack[stack.size() - argument_count_ + i];
    argument = map_tensors(std::move(argument), [&](const at::Tensor& tensor) {
      at::Tensor cast = cast_for_autocast(tensor, dtype, device_);
      if (updates && is_statistics_[i] && !cast.is_same(tensor)) updated.push_back({tensor, cast});
      return cast;
    });
  }
  return updated;
}

// fp32 where the eligible arguments do not agree: also for fp16 beside bf16, which libtorch's
// promote refuses.
at::ScalarType OpCasts::widest(const torch::jit::Stack& stack) const {
  std::optional<at::ScalarType> dtype;
  const auto arguments = c10::ArrayRef<c10::IValue>(stack).slice(stack.size() - argument_count_);
  for_each_tensor(arguments, [&](size_t, const at::Tensor& tensor) {
    if (!at::autocast::is_eligible(tensor, device_)) return;
    dtype =
        !dtype.has_value() || *dtype == tensor.scalar_type() ? tensor.scalar_type() : at::kFloat;
  });
  return dtype.value_or(at::kFloat);
}

}  // namespace mezzo
