#pragma once

#include <optional>
#include <string>
#include <string_view>

#include <ATen/core/Tensor.h>

namespace mezzo::kernels::onednn {

/// Empty if a x b (+ bias) may go through oneDNN's strict fp32, otherwise the reason why not.
std::string refusal(const at::Tensor& a, const at::Tensor& b);

/// The part of refusal() that holds for the whole process: the CPU and libtorch's settings.
std::string process_refusal();

/// Empty if libtorch multiplies bf16 through oneDNN in this process, otherwise the reason why not.
std::string bf16_refusal();

/// Whether oneDNN multiplies bf16 in the CPU's tiles (AMX): the CPU and the system have them, and
/// ONEDNN_MAX_CPU_ISA does not hold it to less.
bool fills_tiles();

/// Whether a value of ONEDNN_MAX_CPU_ISA holds oneDNN to an instruction set without AMX.
bool hides_amx(std::string_view max_cpu_isa);

/// Empty if a x b + bias, all bf16, may go through oneDNN's linear layer, otherwise the reason why
/// not. It takes b as a weight [N, K], transposed.
std::string bf16_linear_refusal(const at::Tensor& a, const at::Tensor& b);

/// a [M, K] x b [K, N] + bias [N], fp32 or bf16, accumulated in fp32 and rounded once. refusal(a,
/// b), or bf16_linear_refusal(a, b), must be empty.
at::Tensor mm(const at::Tensor& a, const at::Tensor& b,
              const std::optional<at::Tensor>& bias = std::nullopt);

}  // namespace mezzo::kernels::onednn
