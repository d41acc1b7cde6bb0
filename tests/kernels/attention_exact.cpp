#include "tests/kernels/attention_exact.h"

#include <cmath>
#include <limits>
#include <tuple>

#include <ATen/ATen.h>

namespace mezzo::kernels {
namespace {

constexpr double v = 0x1p-24;
constexpr double kSecondOrder = 1.01;  // every relative error here is below 2^-7

double unit_roundoff(at::ScalarType dtype) {
  return dtype == at::kBFloat16 ? 0x1p-8 : dtype == at::kHalf ? 0x1p-11 : v;
}

at::Tensor transposed(const at::Tensor& x) { return x.transpose(-1, -2); }

double largest(const at::Tensor& x) { return x.abs().max().item<double>(); }

/// The error after rounding to `dtype`; 2^-25 is half the spacing of fp16's subnormals.
at::Tensor rounded(const at::Tensor& error, const at::Tensor& exact, at::ScalarType dtype) {
  const double smallest = dtype == at::kHalf ? 0x1p-25 : 0x1p-133;
  return kSecondOrder * (error + unit_roundoff(dtype) * (exact.abs() + error)) + smallest;
}

// Attention as plain tensor code with the Tq x Tk matrix, in the dtype of its arguments.

at::Tensor scores_of(const at::Tensor& query, const at::Tensor& key, bool is_causal, double scale) {
  const at::Tensor scores = at::matmul(query, key.transpose(-1, -2)) * scale;
  if (!is_causal) return scores;
  const at::Tensor is_future = at::ones({query.size(-2), key.size(-2)}, at::kBool).triu(1);
  return scores.masked_fill(is_future, -std::numeric_limits<double>::infinity());
}

std::tuple<at::Tensor, at::Tensor> attention(const at::Tensor& query, const at::Tensor& key,
                                             const at::Tensor& value, bool is_causal,
                                             double scale) {
  const at::Tensor scores = scores_of(query, key, is_causal, scale);
  return {at::matmul(scores.softmax(-1), value), scores.logsumexp(-1)};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> attention_backward(const at::Tensor& grad_out,
                                                                  const at::Tensor& query,
                                                                  const at::Tensor& key,
                                                                  const at::Tensor& value,
                                                                  bool is_causal, double scale) {
  const at::Tensor probabilities = scores_of(query, key, is_causal, scale).softmax(-1);
  const at::Tensor grad_probabilities = at::matmul(grad_out, value.transpose(-1, -2));
  const at::Tensor delta = (probabilities * grad_probabilities).sum(-1, /*keepdim=*/true);
  const at::Tensor grad_scores = probabilities * (grad_probabilities - delta) * scale;
  return {at::matmul(grad_scores, key), at::matmul(grad_scores.transpose(-1, -2), query),
          at::matmul(probabilities.transpose(-1, -2), grad_out)};
}

}  // namespace

ExactAttention exact_attention(const AttentionInputs& in) {
  const at::ScalarType dtype = in.query.scalar_type();
  const int64_t group = in.query.size(1) / in.key.size(1);
  const auto repeated = [&](const at::Tensor& x) {
    return x.to(at::kDouble).repeat_interleave(group, 1);
  };
  const auto sum_of_group = [&](const at::Tensor& x) { return x.unflatten(1, {-1, group}).sum(2); };
  const at::Tensor Q = in.query.to(at::kDouble), K = repeated(in.key), V = repeated(in.value),
                   dO = in.grad_out.to(at::kDouble);
  Attention value, bound;
  std::tie(value.out, value.logsumexp) = attention(Q, K, V, in.is_causal, in.scale);
  std::tie(value.grad_query, value.grad_key, value.grad_value) =
      attention_backward(dO, Q, K, V, in.is_causal, in.scale);
  value.grad_key = sum_of_group(value.grad_key);
  value.grad_value = sum_of_group(value.grad_value);

  const double E = static_cast<double>(Q.size(-1)), Tk = static_cast<double>(K.size(-2)),
               queries = static_cast<double>(group * Q.size(-2)), scale = std::abs(in.scale);
  const double u_P = dtype == at::kBFloat16 ? unit_roundoff(dtype) : 0.0;
  const at::Tensor scores = at::matmul(Q, transposed(K)) * in.scale;
  const at::Tensor is_seen = in.is_causal ? at::ones_like(scores).tril() : at::ones_like(scores);
  const at::Tensor P = at::exp(scores - value.logsumexp.unsqueeze(-1)).nan_to_num() * is_seen;
  const double e = (E + 4) * v * scale * largest(at::matmul(Q.abs(), transposed(K).abs()));
  const double eta = 2 * e + (Tk + 16) * v + 4 * v * (largest(scores) + largest(value.logsumexp));
  bound.logsumexp = at::full_like(value.logsumexp, eta);

  const at::Tensor error_out = (eta + u_P + Tk * v) * at::matmul(P, V.abs());
  bound.out = rounded(error_out, value.out, dtype);
  const at::Tensor error_dV = (eta + u_P + queries * v) * at::matmul(transposed(P), dO.abs());
  bound.grad_value = rounded(sum_of_group(error_dV), value.grad_value, dtype);

  const at::Tensor dP = at::matmul(dO, transposed(V)), D = (dO * value.out).sum(-1, true);
  const at::Tensor error_dP = (E + 2) * v * at::matmul(dO.abs(), transposed(V).abs());
  const at::Tensor error_D =
      (dO.abs() * bound.out).sum(-1, true) + E * v * (dO * value.out).abs().sum(-1, true);
  const at::Tensor dS = (P * (dP - D) * scale).abs();
  const at::Tensor error_dS =
      scale * P * ((eta + 4 * v) * (dP - D).abs() + error_dP + error_D) + u_P * dS;
  bound.grad_query = rounded(at::matmul(error_dS + Tk * v * dS, K.abs()), value.grad_query, dtype);
  const at::Tensor error_dK = at::matmul(transposed(error_dS + queries * v * dS), Q.abs());
  bound.grad_key = rounded(sum_of_group(error_dK), value.grad_key, dtype);
  return {value, bound};
}

}  // namespace mezzo::kernels
