#pragma once

#include <string>

#include <ATen/core/stack.h>

#include "mezzo/numerics/op_facts.h"

namespace mezzo::numerics {

/// What keeps an op within its domain, in words for people: "clamp_min its input at 1e-5".
/// "" if nothing is known that does.
std::string domain_advice(const std::string& op);

/// Changes the arguments, the last of the stack, so that the op is defined for them: logarithms and
/// roots read at least a small number, a zero divisor becomes 1, a softmax's row of nothing but
/// -Inf becomes zeros, and a mean over nothing a sum. The rest keeps its bits, and gradients flow
/// through.
void keep_in_domain(const std::string& op, torch::jit::Stack& stack,
                    const c10::FunctionSchema& schema);

/// Of the op whose mean no argument makes a sum, Mezzo's head: changes a mean over nothing, in
/// place, to 0.
void keep_result_in_domain(const std::string& op, const at::Tensor& result);

}  // namespace mezzo::numerics
