#pragma once

#include <cstdint>

#include "mezzo/kernels/cuda/dtype.h"

namespace mezzo::kernels::cuda {

// swiglu.h on a GPU, by address: rows of gate_up [rows, 2 C] and y [rows, C] of one dtype.

void launch_swiglu(const void* gate_up, void* y, int64_t rows, int64_t C, DType dtype,
                   void* stream);
/// y: swiglu again, or null.
void launch_swiglu_backward(const void* grad, const void* gate_up, void* grad_gate_up, void* y,
                            int64_t rows, int64_t C, DType dtype, void* stream);

}  // namespace mezzo::kernels::cuda
