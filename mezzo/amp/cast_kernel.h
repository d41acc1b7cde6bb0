#pragma once

#include <set>
#include <string>
#include <utility>

namespace mezzo {

/// Registers Mezzo's kernel for an op on the dispatcher's autocast keys of CPU and CUDA, once a
/// process. It applies the policy in force on the calling thread; where none is, that is outside
/// Autocast regions and CastPolicyGuards, it does what was there before it.
void install_cast_kernel(const std::string& op);

/// The same for all ops of cast_table().
void install_cast_kernels();

/// Counts the Autocast regions around this thread: within one the mezzo policy is in force unless a
/// guard names another.
void enter_cast_region();
/// Returns whether that was the outermost.
bool leave_cast_region();
bool is_in_cast_region();

/// An op with its overload, and the path of scopes that it ran in.
using MetOp = std::pair<std::string, std::string>;

/// The ops that have asked for their rule on this thread since its policy is in force.
const std::set<MetOp>& ops_met();

/// To be called when the policy in force on this thread has changed.
void forget_resolved_rules();

}  // namespace mezzo
