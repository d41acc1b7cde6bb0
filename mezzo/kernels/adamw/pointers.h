#pragma once

#include <vector>

#include <c10/core/ScalarType.h>

#include "mezzo/kernels/adamw/adamw.h"
#include "mezzo/kernels/adamw/addresses.h"

namespace mezzo::kernels {

/// An AdamWParam for the CPU's loops.
struct AdamWPointers : AdamWAddresses {
  c10::ScalarType weight_dtype, grad_dtype;
};

/// Of a parameter that check_adamw() let pass.
AdamWPointers adamw_pointers(const AdamWParam& param);

/// Throws Error, naming what does not fit, for parameters that adamw_() cannot step.
void check_adamw(const std::vector<AdamWParam>& params);

namespace cpu {

/// kernels::adamw_() of parameters on the CPU, which have been checked.
void adamw_(const std::vector<AdamWPointers>& params);

}  // namespace cpu

}  // namespace mezzo::kernels
