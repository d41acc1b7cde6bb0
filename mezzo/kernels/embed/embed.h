#pragma once

#include <optional>

#include <ATen/core/Tensor.h>

namespace mezzo::kernels {

/// The sum of token and position embeddings as the beginning of a residual stream, one node of
/// autograd: y[b, t] = table[tokens[b, t]] + positions[t]. Without positions, as where rotary
/// embeddings (rope.h) tell them apart, the first term alone.
///
///   tokens     [B, T] int64, each in [0, V)
///   table      [V, C], positions [L, C], L >= T, or none; fp32, bf16 or fp16
///   dtype      of y, in which the sum is made; fp32 keeps what 16-bit tables hold
///   sparse     on a CPU, the gradient of table is a sparse tensor of the rows that were looked
///              up, each once, as torch's Embedding gives with sparse=True. Where the table is also
///              the head's weight, autograd adds it into the head's dense gradient in place, and
///              [V, C] zeros are neither filled nor added.
///   returns    [B, T, C]
/// Gradients of one row are summed in fp32 in the order of the batch, and rounded once to the dtype
/// of the table. Throws Error for other ranks and ids of another type, for C that differ, for T > L
/// and for an id out of range. No double backward.
at::Tensor embed(const at::Tensor& tokens, const at::Tensor& table,
                 const std::optional<at::Tensor>& positions, at::ScalarType dtype, bool sparse);

}  // namespace mezzo::kernels
