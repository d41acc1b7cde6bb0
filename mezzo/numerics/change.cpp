#include "mezzo/numerics/change.h"

#include <memory>
#include <unordered_map>

#include <ATen/autocast_mode.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/csrc/autograd/function.h>
#include <torch/library.h>

#include "mezzo/base/check.h"
#include "mezzo/base/float_format.h"
#include "mezzo/base/ivalue_tensors.h"
#include "mezzo/base/scope.h"
#include "mezzo/numerics/domain.h"
#include "mezzo/numerics/quiet.h"
#include "mezzo/numerics/recorder.h"

namespace mezzo::numerics {
namespace {

constexpr c10::DispatchKey kKey = c10::DispatchKey::DeferredInit;

/// Tensors that are wider than the step as it was had them, by their memory.
class WideTensors {
 public:
  void add(const at::Tensor& tensor, at::ScalarType was) {
    if (!tensor.has_storage()) return;
    known_.insert_or_assign(tensor.storage().unsafeGetStorageImpl(),
                            Entry{tensor.storage().getWeakStorageImpl(), was});
  }
  std::optional<at::ScalarType> dtype_before(const at::Tensor& tensor) const {
    if (!tensor.defined() || !tensor.has_storage()) return std::nullopt;
    const auto found = known_.find(tensor.storage().unsafeGetStorageImpl());
    return found == known_.end() ? std::nullopt : std::optional(found->second.was);
  }

 private:
  struct Entry {
    c10::weak_intrusive_ptr<c10::StorageImpl> keeps_address;
    at::ScalarType was;
  };
  std::unordered_map<const void*, Entry> known_;
};

struct Active {
  const Change& change;
  const Trace& before;
  std::unordered_map<uint64_t, int64_t> record_of_key;
  WideTensors wide;
  std::set<int64_t> followers;
};

// Of the process, as the ops of the backward pass may run on autograd's threads.
Active* active = nullptr;

bool is_narrow(at::ScalarType dtype, at::ScalarType target) {
  return dtype == at::kHalf || (dtype == at::kBFloat16 && target != at::kBFloat16);
}

bool is_narrow(const at::Tensor& tensor, at::ScalarType target) {
  return tensor.defined() && is_narrow(tensor.scalar_type(), target);
}

/// One call, as it passes through.
class PassingCall {
 public:
  PassingCall(const c10::OperatorHandle& op, c10::DispatchKeySet keys, torch::jit::Stack* stack)
      : op_(op), keys_(keys), stack_(*stack), count_(op.schema().arguments().size()) {
    const auto found = active->record_of_key.find(Recorder::current_key());
    if (found == active->record_of_key.end()) return;
    const OpRecord& record = active->before.record(found->second);
    if (record.op == nullptr || record.op->handle != op) return;
    index_ = found->second;
    record_ = &record;
  }

  void run() {
    const Change& change = active->change;
    repair();
    if (change.everywhere && !is_backward()) return run_everywhere();
    if (change.scope.has_value() && is_in_scope(Scope::path(), *change.scope) &&
        !Scope::path().empty())
      return run_in_type(/*keeps=*/true);
    if (change.scope.has_value()) {
      if (!is_backward()) narrow_arguments();
    } else if (change.ops.contains(index_)) {
      return run_in_type(/*keeps=*/false);
    } else if (reads_wide() && !is_view() && !is_backward()) {
      if (index_ >= 0) active->followers.insert(index_);
      return run_in_type(/*keeps=*/false);
    }
    go_on();
    repair_result();
  }

 private:
  c10::ArrayRef<c10::IValue> arguments() const {
    return c10::ArrayRef<c10::IValue>(stack_).slice(stack_.size() - count_);
  }
  c10::IValue& argument(size_t i) { return stack_[stack_.size() - count_ + i]; }
  bool is_view() const { return record_ != nullptr && record_->op->is_view; }

  // Autograd wants each gradient in the dtype of what it is of; the casts that a changed forward op
  // recorded see to it.
  bool is_backward() const {
    return torch::autograd::get_current_node() != nullptr && !at::GradMode::is_enabled();
  }

  // What changes arguments whatever type the op runs in.
  void repair() {
    const Change& change = active->change;
    if (change.guards.contains(index_)) {
      const c10::impl::ExcludeDispatchKeyGuard no_more(kKey);
      const at::DisableRecordFunctionGuard no_record;
      keep_in_domain(op_.schema().name(), stack_, op_.schema());
    }
    const auto scalar = change.scalars.find(index_);
    if (scalar != change.scalars.end()) replace_scalar(scalar->second.first, scalar->second.second);
    if (change.scaled.contains(index_) && argument(0).isTensor() && !makes_ones()) {
      const c10::impl::ExcludeDispatchKeyGuard no_more(kKey);
      const at::DisableRecordFunctionGuard no_record;
      argument(0) = argument(0).toTensor() * change.factor;
    }
  }

  bool makes_ones() const { return op_.schema().name() == "aten::ones_like"; }

  void repair_result() {
    if (active->change.guards.contains(index_) && stack_.back().isTensor()) {
      const Quiet quiet;
      keep_result_in_domain(op_.schema().name(), stack_.back().toTensor());
    }
    if (active->change.zeroed.contains(index_)) {
      const Quiet quiet;
      stack_.back().toTensor().zero_();
    }
    if (!active->change.scaled.contains(index_) || !makes_ones()) return;
    const Quiet quiet;
    stack_.back().toTensor().mul_(active->change.factor);
  }

  void replace_scalar(size_t i, double value) {
    if (argument(i).isTensor()) {
      const Quiet quiet;
      argument(i) = argument(i).toTensor().clone().fill_(value);
      argument(i).toTensor().unsafeGetTensorImpl()->set_wrapped_number(true);
    } else {
      argument(i) = value;
    }
  }

  bool reads_wide() const {
    bool reads = false;
    for_each_tensor(arguments(), [&](size_t, const at::Tensor& tensor) {
      reads |= active->wide.dtype_before(tensor).has_value();
    });
    return reads;
  }

  void narrow_arguments() {
    const c10::impl::ExcludeDispatchKeyGuard no_more(kKey);
    const at::DisableRecordFunctionGuard no_record;
    for (size_t i = 0; i < count_; ++i) {
      argument(i) = map_tensors(argument(i), [](const at::Tensor& tensor) {
        const auto before = active->wide.dtype_before(tensor);
        return before.has_value() ? tensor.to(*before) : tensor;
      });
    }
  }

  void run_everywhere() {
    if (active->change.type == at::kFloat) {
      run_in_type(/*keeps=*/true);
    } else {
      // What autocast makes of fp32 tensors, too; a checkpoint takes it along.
      for (const at::DeviceType device : {at::kCPU, at::kCUDA})
        at::autocast::set_autocast_dtype(device, active->change.type);
      widen_arguments();
      go_on();
    }
    repair_result();
  }

  // In-place results go back into the tensors they belong to, in the dtype these have.
  void run_in_type(bool keeps) {
    std::vector<std::pair<at::Tensor, at::Tensor>> written = widen_arguments();
    {
      const c10::impl::ExcludeDispatchKeyGuard no_more(c10::autocast_dispatch_keyset |
                                                       c10::DispatchKeySet(kKey));
      op_.callBoxed(stack_);
    }
    const c10::impl::ExcludeDispatchKeyGuard no_more(c10::DispatchKeySet{kKey});
    const at::DisableRecordFunctionGuard no_record;
    const size_t results = op_.schema().returns().size();
    for (size_t i = stack_.size() - results; i < stack_.size(); ++i) {
      stack_[i] = map_tensors(stack_[i], [&](const at::Tensor& result) {
        for (const auto& [original, copy] : written) {
          if (result.is_same(copy)) return original;
        }
        return settled(result, keeps);
      });
    }
    for (const auto& [original, copy] : written) original.copy_(copy);
  }

  std::vector<std::pair<at::Tensor, at::Tensor>> widen_arguments() {
    const c10::impl::ExcludeDispatchKeyGuard no_more(kKey);
    const at::DisableRecordFunctionGuard no_record;
    const at::ScalarType type = active->change.type;
    const auto& schema = op_.schema();
    std::vector<std::pair<at::Tensor, at::Tensor>> written;
    for (size_t i = 0; i < count_; ++i) {
      const c10::Argument& formal = schema.arguments()[i];
      const bool writes = formal.alias_info() != nullptr && formal.alias_info()->isWrite();
      if ((formal.name() == "dtype" || formal.name() == "out_dtype") && argument(i).isInt() &&
          is_narrow(argument(i).toScalarType(), type)) {
        argument(i) = type;
      } else if (formal.name() == "half_to_float") {
        argument(i) = false;
      } else {
        argument(i) = map_tensors(argument(i), [&](const at::Tensor& tensor) {
          if (!narrow_.has_value() && tensor.has_storage())
            narrow_ = active->wide.dtype_before(tensor);
          if (!is_narrow(tensor, type)) return tensor;
          if (!narrow_.has_value()) narrow_ = tensor.scalar_type();
          const at::Tensor wide = tensor.to(type);
          if (writes) written.emplace_back(tensor, wide);
          return wide;
        });
      }
    }
    return written;
  }

  // A result that fits is as it was for the ops that follow; one that does not stays wide, and they
  // follow it.
  at::Tensor settled(const at::Tensor& result, bool keeps) {
    const std::optional<at::ScalarType> before = dtype_before(result);
    if (!before.has_value()) return result;
    if (!keeps) {
      const kernels::TensorStats stats = kernels::tensor_stats(result);
      const bool fits = stats.largest <= float_format(*before).max;
      if (fits || is_backward()) return result.to(*before);
    }
    active->wide.add(result, *before);
    return result;
  }

  std::optional<at::ScalarType> dtype_before(const at::Tensor& result) const {
    if (!result.defined() || result.scalar_type() != active->change.type) return std::nullopt;
    if (record_ == nullptr || record_->outputs.empty()) return narrow_;
    for (const TensorFacts& output : record_->outputs) {
      if (output.sizes == result.sizes().vec() && is_narrow(output.dtype, at::kFloat))
        return output.dtype;
    }
    return std::nullopt;
  }

  void go_on() {
    op_.redispatchBoxed(keys_ & c10::DispatchKeySet(c10::DispatchKeySet::FULL_AFTER, kKey),
                        &stack_);
  }

  const c10::OperatorHandle& op_;
  c10::DispatchKeySet keys_;
  torch::jit::Stack& stack_;
  size_t count_;
  int64_t index_ = -1;
  const OpRecord* record_ = nullptr;
  std::optional<at::ScalarType> narrow_;  // of the arguments, in the step as it was
};

void pass(const c10::OperatorHandle& op, c10::DispatchKeySet keys, torch::jit::Stack* stack) {
  if (active == nullptr) {
    op.redispatchBoxed(keys & c10::DispatchKeySet(c10::DispatchKeySet::FULL_AFTER, kKey), stack);
    return;
  }
  PassingCall(op, keys, stack).run();
}

void register_fallback() {
  static const auto* library = [] {
    MEZZO_CHECK(!c10::Dispatcher::singleton().hasBackendFallbackForDispatchKey(kKey), "numerics",
                "another library (torchdistX?) has taken the dispatch key DeferredInit, over which "
                "remedies are tried. Hint: DoctorOptions::tries_remedies = false");
    auto* made = new torch::Library(torch::Library::IMPL, "_", kKey, __FILE__, __LINE__);
    made->fallback(torch::CppFunction::makeFromBoxedFunction<&pass>());
    return made;
  }();
  static_cast<void>(library);
}

}  // namespace

ChangeGuard::ChangeGuard(const Change& change, const Trace& before)
    : autocast_cpu_(at::autocast::get_autocast_dtype(at::kCPU)),
      autocast_cuda_(at::autocast::get_autocast_dtype(at::kCUDA)) {
  register_fallback();
  MEZZO_INTERNAL_CHECK(active == nullptr);
  active = new Active{change, before, {}, {}, {}};
  for (size_t i = 0; i < before.records.size(); ++i)
    active->record_of_key.emplace(before.records[i].key, static_cast<int64_t>(i));
  include_ = std::make_unique<c10::impl::IncludeDispatchKeyGuard>(kKey);
}

const std::set<int64_t>& ChangeGuard::followers() const { return active->followers; }

ChangeGuard::~ChangeGuard() {
  include_.reset();
  delete active;
  active = nullptr;
  at::autocast::set_autocast_dtype(at::kCPU, autocast_cpu_);
  at::autocast::set_autocast_dtype(at::kCUDA, autocast_cuda_);
}

}  // namespace mezzo::numerics
