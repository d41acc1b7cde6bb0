#include "mezzo/kernels/attention/reference.h"

#include <limits>

#include <ATen/ops/exp.h>
#include <ATen/ops/logsumexp.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/ones.h>

namespace mezzo::kernels::reference {
namespace {

at::Tensor scores_of(const at::Tensor& query, const at::Tensor& key, bool is_causal, double scale) {
  const at::Tensor scores = at::matmul(query, key.transpose(-1, -2)) * scale;
  if (!is_causal) return scores;
  const at::Tensor is_future = at::ones({query.size(-2), key.size(-2)}, at::kBool).triu(1);
  return scores.masked_fill(is_future, -std::numeric_limits<double>::infinity());
}

}  // namespace

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

}  // namespace mezzo::kernels::reference
