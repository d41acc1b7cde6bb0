#include "mezzo/amp/cast_kernel.h"

#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <unordered_map>
#include <vector>

#include <ATen/autocast_mode.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/library.h>

#include "mezzo/amp/cast_policy.h"
#include "mezzo/amp/cast_table.h"
#include "mezzo/amp/op_casts.h"
#include "mezzo/amp/op_names.h"
#include "mezzo/base/scope.h"
#include "mezzo/base/silent_warnings.h"
#include "mezzo/kernels/ops.h"

namespace mezzo {
namespace {

// Note [How a policy acts]
// libtorch's autocast is a set of kernels on the dispatch keys AutocastCPU and AutocastCUDA. Mezzo
// registers one boxed kernel an op over them, for good, which looks up the calling thread's policy
// at each call: so policies can differ by thread, nest, and be changed by scope, without another
// registration. Outside a policy it hands the call to the kernel that was there, so that
// at::autocast, and extensions with autocast kernels of their own, work as before.

// Rules by the kernel's number, resolved for one path of scopes: what a call looks up.
enum class Resolved : uint8_t { kUnresolved, kOriginal, kRule };
struct ResolvedRule {
  Resolved state = Resolved::kUnresolved;
  CastRule rule = CastRule::kPass;
};
using Rules = std::vector<ResolvedRule>;

struct ThreadState {
  int regions = 0;
  uint64_t scope_version = 0;
  Rules* rules = nullptr;  // of the current path
  std::unordered_map<std::string, Rules> rules_by_path;
  std::set<MetOp> met;
};

ThreadState& thread_state() {
  thread_local ThreadState state;
  return state;
}

struct InstalledOp {
  std::string name;
  c10::DeviceType device;
  bool is_aten;
};

ResolvedRule resolve(const InstalledOp& op) {
  static const CastPolicy default_policy = CastPolicy::mezzo();
  const std::shared_ptr<const CastPolicy>& guarded = guarded_policy();
  const CastPolicy& policy = guarded == nullptr ? default_policy : *guarded;
  thread_state().met.emplace(op.name, Scope::path());
  const std::optional<CastRule> rule = policy.rule(op.name, op.device, Scope::path());
  if (rule.has_value()) return {Resolved::kRule, *rule};
  return {op.is_aten ? Resolved::kRule : Resolved::kOriginal, CastRule::kPass};
}

// The rules for the scope that this thread is in now.
Rules& rules_here(ThreadState& state) {
  if (state.rules == nullptr || state.scope_version != Scope::version()) {
    state.rules = &state.rules_by_path[Scope::path()];
    state.scope_version = Scope::version();
  }
  return *state.rules;
}

ResolvedRule rule_now(const InstalledOp& op, size_t number) {
  ThreadState& state = thread_state();
  if (state.regions == 0 && guarded_policy() == nullptr) return {Resolved::kOriginal};
  Rules& rules = rules_here(state);
  if (number >= rules.size()) rules.resize(number + 1);
  if (rules[number].state == Resolved::kUnresolved) rules[number] = resolve(op);
  return rules[number];
}

class CastKernel final : public c10::OperatorKernel {
 public:
  CastKernel(InstalledOp op, size_t number, const c10::OperatorHandle& handle)
      : op_(std::move(op)),
        number_(number),
        key_(at::autocast::get_autocast_dispatch_key_from_device_type(op_.device)),
        casts_(handle, op_.name, op_.device) {
    if (handle.hasKernelForDispatchKey(key_))
      original_ = handle.getComputedKernelForDispatchKey(key_);
  }

  void operator()(const c10::OperatorHandle& handle, c10::DispatchKeySet keys,
                  torch::jit::Stack* stack) {
    const ResolvedRule now = rule_now(op_, number_);
    if (now.state == Resolved::kOriginal && original_.has_value()) {
      original_->callBoxed(handle, keys, stack);
    } else if (now.state == Resolved::kOriginal || now.rule == CastRule::kPass) {
      // What a fallthrough does: the ops that this one is made of are autocast in their turn.
      handle.redispatchBoxed(keys & c10::DispatchKeySet(c10::DispatchKeySet::FULL_AFTER, key_),
                             stack);
    } else {
      const c10::impl::ExcludeDispatchKeyGuard no_autocast(key_);
      casts_.call(now.rule, stack);
    }
  }

 private:
  InstalledOp op_;
  size_t number_;
  c10::DispatchKey key_;
  OpCasts casts_;
  std::optional<c10::SafeKernelFunction> original_;
};

class Registry {
 public:
  void install(const std::string& op) {
    const std::lock_guard lock(mutex_);
    if (!installed_.insert(op).second) return;
    const c10::OperatorName name = dispatcher_name(op);
    const auto handle = c10::Dispatcher::singleton().findSchema(name);
    if (!handle.has_value()) return;  // an op of the table that this libtorch does not have
    const std::string space(name.getNamespace().value());
    // The dispatcher warns once a process that a kernel is being replaced. Here that is the
    // purpose.
    const SilentWarnings silent;
    for (const c10::DeviceType device : {c10::DeviceType::CPU, c10::DeviceType::CUDA}) {
      auto kernel = std::make_unique<CastKernel>(InstalledOp{op, device, space == "aten"},
                                                 kernel_count_++, *handle);
      library(space, device)
          .impl(c10::toString(name).c_str(),
                torch::CppFunction::makeFromBoxedKernel(
                    c10::BoxedKernel::makeFromFunctor(std::move(kernel))));
    }
  }

 private:
  torch::Library& library(const std::string& space, c10::DeviceType device) {
    auto& found = libraries_[{space, device}];
    if (found == nullptr) {
      found = std::make_unique<torch::Library>(
          torch::Library::IMPL, space,
          at::autocast::get_autocast_dispatch_key_from_device_type(device), __FILE__, __LINE__);
    }
    return *found;
  }

  std::mutex mutex_;
  std::set<std::string> installed_;
  size_t kernel_count_ = 0;  // two an op: a rule may differ by device
  std::map<std::pair<std::string, c10::DeviceType>, std::unique_ptr<torch::Library>> libraries_;
};

// Never destroyed: at exit the dispatcher may be gone before it.
Registry& registry() {
  static Registry* const instance = new Registry;
  return *instance;
}

}  // namespace

void install_cast_kernel(const std::string& op) { registry().install(op); }

void install_cast_kernels() {
  static const bool done = [] {
    kernels::register_ops();
    for (const CastTableRow& row : cast_table()) install_cast_kernel(std::string(row.op));
    return true;
  }();
  static_cast<void>(done);
}

void enter_cast_region() { ++thread_state().regions; }

bool leave_cast_region() { return --thread_state().regions == 0; }

bool is_in_cast_region() { return thread_state().regions > 0; }

const std::set<MetOp>& ops_met() { return thread_state().met; }

void forget_resolved_rules() {
  thread_state().rules = nullptr;
  thread_state().rules_by_path.clear();
  thread_state().met.clear();
}

}  // namespace mezzo
