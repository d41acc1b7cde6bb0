#pragma once

#include <gtest/gtest.h>

#include <ATen/core/Tensor.h>

namespace mezzo::kernels {

/// What an attention computes, and its gradients.
struct Attention {
  at::Tensor out, logsumexp, grad_query, grad_key, grad_value;
};

struct AttentionInputs {
  at::Tensor query, key, value, grad_out;
  bool is_causal;
  double scale;
};

/// The exact results in fp64, as if the keys and values of a group of n query heads stood there n
/// times, with their gradients summed; and how far, element by element, a kernel may lie from them
/// that
///   sums in fp32, whose unit roundoff is v = 2^-24;
///   rounds probabilities and the gradient of scores to the 16-bit operand, u_P (0 if it is fp32);
///   rounds results once to the dtype of the inputs, u.
/// Propagated to first order, on the magnitudes of these very inputs:
///   score      (E + 4) v |scale| |Q||K|^T                                                 =: e
///   P, by      eta = 2 max(e) + (Tk + 16) v + 4 v (max |score| + max |logsumexp|), relative
///   out        (eta + u_P + Tk v) P|V|, then u
///   dV         (eta + u_P + n Tq v) P^T|dO|, summed over the group, then u
///   dP         (E + 2) v |dO||V|^T
///   D          of rowsum(dO * out): |dO| times the error of out, and E v |dO||out|
///   dS         |scale| P ((eta + 4 v) |dP - D| + errors of dP and D) + u_P |dS|
///   dQ         (error of dS) |K| + Tk v |dS||K|, then u
///   dK         (error of dS)^T |Q| + n Tq v |dS|^T|Q|, summed over the group, then u
struct ExactAttention {
  Attention value, bound;
};
ExactAttention exact_attention(const AttentionInputs& inputs);

}  // namespace mezzo::kernels
