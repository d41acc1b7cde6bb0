// The Llama block of docs/model.md, beside the same of libtorch's ops.

#include <cmath>
#include <optional>
#include <tuple>
#include <vector>

#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>

#include "mezzo/base/float_format.h"
#include "mezzo/kernels/fused_linear/residual_norm_linear.h"
#include "mezzo/kernels/fused_linear/swiglu_linear.h"
#include "mezzo/kernels/rope/rope.h"
#include "tests/close.h"
#include "tests/devices.h"

namespace mezzo::kernels {
namespace {

constexpr int64_t H = 4, K = 2, D = 6, C = H * D, F = 40;
constexpr double kEps = 1e-5;

using Stream = std::tuple<at::Tensor, at::Tensor>;

struct LlamaBlock {
  at::Tensor attn_norm, wqkv, wo, mlp_norm, w_gate_up, w_down;
  at::Tensor table = rope_table(16, D, {.base = 500000.0});

  Stream forward(const at::Tensor& x, const std::optional<at::Tensor>& branch) const {
    const auto [middle, qkv] =
        residual_rms_norm_linear(x, branch, attn_norm, wqkv, {}, kEps, /*recompute=*/true);
    const at::Tensor heads = qkv.unflatten(2, {H + 2 * K, D});
    const at::Tensor turned = rope(heads.narrow(2, 0, H + K), table);
    const at::Tensor attended = at::scaled_dot_product_attention(
        turned.narrow(2, 0, H).transpose(1, 2), turned.narrow(2, H, K).transpose(1, 2),
        heads.narrow(2, H + K, K).contiguous().transpose(1, 2), {}, 0.0, /*is_causal=*/true, {},
        /*enable_gqa=*/true);
    const at::Tensor attention = at::linear(attended.transpose(1, 2).flatten(2), wo);
    const auto [out, gate_up] =
        residual_rms_norm_linear(middle, attention, mlp_norm, w_gate_up, {}, kEps, true);
    return {out, swiglu_linear(gate_up, w_down, {}, true)};
  }

  /// As Hugging Face's modeling_llama.py has it: projections apart, keys and values repeated.
  Stream plain(const at::Tensor& x, const std::optional<at::Tensor>& branch) const {
    const int64_t T = x.size(1);
    const auto rotary = table.slice(0, 0, T).to(x.scalar_type()).chunk(2, -1);
    const at::Tensor cos = rotary[0].repeat({1, 2}), sin = rotary[1].repeat({1, 2});
    const auto turned = [&](const at::Tensor& heads) {
      const auto halves = heads.chunk(2, -1);
      return heads * cos + at::cat({-halves[1], halves[0]}, -1) * sin;
    };
    const auto by_head = [&](const at::Tensor& rows, const at::Tensor& weight) {
      const at::Tensor heads = at::linear(rows, weight).unflatten(2, {-1, D}).transpose(1, 2);
      return heads.repeat_interleave(H / heads.size(1), 1);
    };
    const at::Tensor sum = branch.has_value() ? x + *branch : x;
    const at::Tensor rows = at::rms_norm(sum, {C}, attn_norm, kEps);
    const auto weights = wqkv.split_with_sizes({H * D, K * D, K * D});
    const at::Tensor query = turned(by_head(rows, weights[0])),
                     key = turned(by_head(rows, weights[1])), value = by_head(rows, weights[2]);
    const at::Tensor future = at::ones({T, T}, x.options().dtype(at::kBool)).triu(1);
    const at::Tensor scores = at::matmul(query, key.transpose(2, 3)) / std::sqrt(double{D});
    const at::Tensor attended =
        at::matmul(scores.masked_fill(future, -INFINITY).softmax(-1), value);
    const at::Tensor middle = sum + at::linear(attended.transpose(1, 2).flatten(2), wo);
    const at::Tensor mlp_rows = at::rms_norm(middle, {C}, mlp_norm, kEps);
    const auto gate_up = w_gate_up.chunk(2);
    const at::Tensor hidden =
        at::silu(at::linear(mlp_rows, gate_up[0])) * at::linear(mlp_rows, gate_up[1]);
    return {middle, at::linear(hidden, w_down)};
  }

  std::vector<at::Tensor> parameters() const {
    return {attn_norm, wqkv, wo, mlp_norm, w_gate_up, w_down};
  }
};

at::Tensor leaf(at::IntArrayRef sizes, at::Device device) {
  static at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(11);
  return at::randn(sizes, generator, at::kDouble).mul(0.5).to(device).requires_grad_();
}

class LlamaBlockOn : public mezzo::testing::OnDevice<> {};

TEST_P(LlamaBlockOn, IsThatOfLibtorchsOpsForwardAndBackward) {
  LlamaBlock block{leaf({C}, device), leaf({C + 2 * K * D, C}, device), leaf({C, C}, device),
                   leaf({C}, device), leaf({2 * F, C}, device),         leaf({C, F}, device)};
  block.table = there(block.table);
  const at::Tensor x = leaf({2, 11, C}, device), branch = leaf({2, 11, C}, device);
  std::vector<std::vector<at::Tensor>> results;
  for (const auto& [stream, end] : {block.forward(x, branch), block.plain(x, branch)}) {
    const at::Tensor out = stream + end;
    std::vector<at::Tensor> inputs = block.parameters();
    inputs.insert(inputs.end(), {x, branch});
    results.push_back(torch::autograd::grad({out.square().sum()}, inputs));
    results.back().push_back(out.detach());
  }
  for (size_t i = 0; i < results[0].size(); ++i) {
    const at::Tensor &got = results[0][i], &want = results[1][i];
    // Two fp64 programs of some thousand roundings in a row, each of terms like the largest result.
    EXPECT_CLOSE(got, want,
                 2 * tolerance_for(at::kDouble, 4096, mezzo::testing::magnitude_of(want)))
        << i;
  }
}

INSTANTIATE_TEST_SUITE_P(Devices, LlamaBlockOn, mezzo::testing::on_devices(),
                         mezzo::testing::device_alone);

}  // namespace
}  // namespace mezzo::kernels
