#pragma once

#include <string>
#include <tuple>

#include <ATen/core/Tensor.h>

namespace mezzo::kernels::flash {

// Flash attention (Dao et al., 2022) over brgemm.h: softmax(scale Q K^T) V without the Tq x Tk
// matrix.
//   query [B, H, Tq, E], key and value [B, K, Tk, E]: fp32, bf16 or fp16, any strides; K divides H,
//   and query head h reads key head h / (H / K): those of one key head are its group
//   logsumexp [B, H, Tq] fp32, of the scaled scores a query sees
//   causal: query i sees the keys j <= i
// Scores, softmax and all sums are fp32. Rounded to bf16, where that is the dtype: probabilities
// and the gradient of scores, as operands; the results, once. fp16 is widened and rounds results
// alone. The same bits come out for any number of threads.
// Memory beside the results: a thread packs the operands of the key head that it works on, forward
// 2 tensors of a head's size, backward 3 and, for each query head of the group, 4 and a gradient in
// fp32 (fp16 all in fp32). Too few heads for the threads are packed so many at a time that a thread
// has 4 tiles of 64 queries or 128 keys.

/// Empty if forward() and backward() can compute this, otherwise why not.
std::string refusal(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value);

/// {out, laid out as query, and logsumexp}.
std::tuple<at::Tensor, at::Tensor> forward(const at::Tensor& query, const at::Tensor& key,
                                           const at::Tensor& value, bool is_causal, double scale);

/// Tensors of the sizes and dtype of query, key and value, whose rows are dense.
struct InputGradients {
  at::Tensor query, key, value;
};

/// Writes the gradients, with P = exp(scale Q K^T - logsumexp):
///   dV = P^T dO    dS = P * (dO V^T - rowsum(dO * O)) * scale    dQ = dS K    dK = dS^T Q
/// dV and dK of a key head are the sums of these over its group.
void backward_into(const InputGradients& grads, const at::Tensor& grad_out, const at::Tensor& query,
                   const at::Tensor& key, const at::Tensor& value, const at::Tensor& out,
                   const at::Tensor& logsumexp, bool is_causal, double scale);

/// The same in new tensors, laid out as query, key and value.
std::tuple<at::Tensor, at::Tensor, at::Tensor> backward(
    const at::Tensor& grad_out, const at::Tensor& query, const at::Tensor& key,
    const at::Tensor& value, const at::Tensor& out, const at::Tensor& logsumexp, bool is_causal,
    double scale);

}  // namespace mezzo::kernels::flash
