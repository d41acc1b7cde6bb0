#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <c10/core/DeviceType.h>

#include "mezzo/amp/cast_rule.h"

namespace mezzo {

/// Which dtype an op runs in under autocast, as data: one rule an op, and rules for parts of a
/// model. A value: copy it, change it, put it in force with a CastPolicyGuard.
///
///   CastPolicy policy = CastPolicy::mezzo();
///   policy.set("softmax", CastRule::kLower)                    // all overloads of softmax
///       .set("mm", CastRule::kFp32, "blocks.*.attn")           // only there (mezzo::Scope)
///       .set("myops::scaled_add", CastRule::kFp32);            // any op in the dispatcher
///   const CastPolicyGuard guard(policy);
///
/// An op is written "softmax.int", with its overload, or "softmax" for all overloads of that name
/// that return new tensors; ops outside aten with their namespace. An op without a rule runs on its
/// arguments as they come; outside aten, as its own autocast kernel says, if it has one.
class CastPolicy {
 public:
  /// libtorch 2.11's lists, and Mezzo's own: CUDA's, and on a CPU both (see cast_table.h). The
  /// mezzo policy is in force in every Autocast region unless a guard names another.
  static CastPolicy mezzo();
  /// torch.autocast("cuda") of PyTorch 2.11, on every device.
  static CastPolicy pytorch_cuda();
  /// torch.autocast("cpu") of PyTorch 2.11, on every device.
  static CastPolicy pytorch_cpu();
  /// By name: "mezzo", "pytorch-cuda", "pytorch-cpu". Throws UsageError for another.
  static CastPolicy preset(std::string_view name);
  /// What preset() takes.
  static const std::vector<std::string>& preset_names();

  /// A copy of the policy in force on this thread; mezzo where none is.
  static CastPolicy current();

  /// Sets the rule of an op, everywhere or in the parts of the model that `scope` names (see
  /// is_in_scope). A later rule wins over an earlier one. Throws UsageError for an op that the
  /// dispatcher does not know, and for a rule that the op cannot take: casting in an op that writes
  /// into its arguments, a dtype for an op without one.
  CastPolicy& set(std::string_view op, CastRule rule, std::string_view scope = "");

  /// The same from text: "softmax=lower, blocks.*.attn:mm=fp32". Throws UsageError for text that
  /// does not read so, and set()'s errors.
  CastPolicy& set_rules(std::string_view rules);

  /// The rule for an op with its overload on a device within a scope. None: it has no rule.
  std::optional<CastRule> rule(std::string_view op, c10::DeviceType device,
                               std::string_view scope = "") const;

  /// Of the preset that it began as.
  const std::string& name() const { return name_; }

  /// One rule beyond the preset.
  struct Override {
    std::string op;     ///< with its overload
    CastRule rule;      ///< in force within the scope
    std::string scope;  ///< a pattern of is_in_scope(); "": everywhere
  };
  /// All that has been set, in order.
  const std::vector<Override>& overrides() const { return overrides_; }

 private:
  explicit CastPolicy(std::string name) : name_(std::move(name)) {}

  std::string name_;
  std::vector<Override> overrides_;
};

/// As set_rules() reads it: "blocks.9.attn:mm=fp32".
std::string to_string(const CastPolicy::Override& rule);

/// Puts a policy in force on this thread while it lives; guards nest and restore what was there.
/// It acts wherever autocast is on, in a region of Autocast or of libtorch's own; in the latter
/// casts of parameters are not kept.
class CastPolicyGuard {
 public:
  /// Copies the policy: later changes to it do not act here.
  [[nodiscard]] explicit CastPolicyGuard(const CastPolicy& policy);
  /// What guarded_policy() gave; null: as where no guard is.
  [[nodiscard]] explicit CastPolicyGuard(std::shared_ptr<const CastPolicy> policy);
  ~CastPolicyGuard();
  CastPolicyGuard(const CastPolicyGuard&) = delete;
  CastPolicyGuard& operator=(const CastPolicyGuard&) = delete;

 private:
  std::shared_ptr<const CastPolicy> outer_;
};

/// The policy that a CastPolicyGuard has put in force on this thread; null where none has.
const std::shared_ptr<const CastPolicy>& guarded_policy();

/// The rules beyond its preset of the policy in force on this thread that no op has met here since
/// it is in force: to_string() of each, one for all overloads of an op.
std::vector<std::string> unmet_cast_rules();

}  // namespace mezzo
