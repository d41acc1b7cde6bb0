// Attention of heads that share keys and values, beside that of heads with their own.
#include <vector>

#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>

#include "mezzo/base/float_format.h"
#include "mezzo/base/memory.h"
#include "mezzo/kernels/attention/grouped.h"
#include "tests/close.h"
#include "tests/devices.h"
#include "tests/testing.h"

namespace mezzo::kernels {
namespace {

constexpr int64_t kB = 2, kH = 6, kT = 40, kE = 16;

/// Case: K.
class GroupedAttentionOn : public mezzo::testing::OnDevice<int64_t> {
 protected:
  at::Tensor leaf(int64_t heads) {
    return at::randn({kB, heads, kT, kE}, generator_).to(device).requires_grad_();
  }

 private:
  at::Generator generator_ = at::make_generator<at::CPUGeneratorImpl>(4);
};

TEST_P(GroupedAttentionOn, IsThatOfRepeatedHeads) {
  const int64_t n = kH / GetParam();
  const at::Tensor query = leaf(kH), key = leaf(kH / n), value = leaf(kH / n);
  const auto results_of = [&](const at::Tensor& out) {
    std::vector<at::Tensor> results =
        torch::autograd::grad({out.square().sum()}, {query, key, value});
    results.push_back(out.detach());
    return results;
  };
  const auto grouped = results_of(grouped_attention(query, key, value, 0.0));
  const auto whole = results_of(
      grouped_attention(query, key.repeat_interleave(n, 1), value.repeat_interleave(n, 1), 0.0));
  for (size_t i = 0; i < whole.size(); ++i) {
    EXPECT_EQ(grouped[i].sizes(), whole[i].sizes());
    // Two fp32 programs: sums over E, T and the group, softmax, and as much again backward.
    EXPECT_CLOSE(here(grouped[i]), here(whole[i]),
                 2 * tolerance_for(at::kFloat, 4 * (kE + n * kT + 8),
                                   mezzo::testing::magnitude_of(whole[i])))
        << i;
  }
}

// What no fused kernel takes keeps the probabilities, [B, H, T, T].
TEST_P(GroupedAttentionOn, KeepsNoProbabilities) {
  const int64_t T = 1024;
  const at::Tensor query = at::ones({1, kH, T, kE}, device).requires_grad_(),
                   key = at::ones({1, GetParam(), T, kE}, device).requires_grad_();
  const TensorMemoryMeter meter(device);
  const int64_t before = meter.current_bytes();
  const at::Tensor out = grouped_attention(query, key, key, 0.0);
  EXPECT_LT(meter.current_bytes() - before, kH * T * T * 4);
}

INSTANTIATE_TEST_SUITE_P(KeyHeads, GroupedAttentionOn,
                         mezzo::testing::on_devices(::testing::Values(1, 2, 6)),
                         mezzo::testing::device_and([](const auto& heads) {
                           return std::to_string(heads.param);
                         }));

}  // namespace
}  // namespace mezzo::kernels
