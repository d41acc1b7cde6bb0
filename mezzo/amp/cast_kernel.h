#pragma once

#include <string>
#include <vector>

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

/// The rules beyond its preset of the policy in force on this thread that no op has met here since
/// it is in force, as "blocks.9.attn:mm=fp32".
std::vector<std::string> unmet_cast_rules();

/// To be called when the policy in force on this thread has changed.
void forget_resolved_rules();

}  // namespace mezzo
