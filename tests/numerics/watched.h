#pragma once

#include <functional>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "mezzo/numerics/diagnosis.h"

namespace mezzo::numerics {

/// What a Watch says of it.
Diagnosis watched(const std::function<void()>& step);

/// And its first finding; of the op "nothing" where there is none.
Finding first_finding(const std::function<void()>& step);

std::vector<std::string> headlines(const Diagnosis& diagnosis);

/// fp16, all of them `value`.
at::Tensor half(at::IntArrayRef sizes, double value);

/// Forward and backward in that Scope, with exp(4 w) in fp16: with kOverflows it is Inf, its share
/// of its sum is NaN, and the finding "aten::exp [fp16], forward of <scope>: overflow".
void step(const std::string& scope, double w);
constexpr double kFits = 1.0, kOverflows = 3.0;

}  // namespace mezzo::numerics
