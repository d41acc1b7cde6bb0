// AdamW against torch.optim.AdamW(fused=False) in fp64, over ten steps with two groups and a
// parameter that has no gradient at some of them.
#include <array>
#include <tuple>

#include <ATen/ATen.h>

#include "mezzo/base/float_format.h"
#include "mezzo/base/safetensors.h"
#include "mezzo/optim/adamw.h"
#include "tests/close.h"
#include "tests/testing.h"

namespace mezzo::optim {
namespace {

using testing::magnitude_of;

constexpr std::array kNames{"matrix", "cube", "bias"};
// One update of a number: decay, two moments, bias corrections, root, quotient, sum.
constexpr int64_t kRoundingsPerStep = 16;

const at::Tensor& golden(const std::string& name) {
  static const SafeTensors file = load_safetensors(MEZZO_TEST_DATA "/adamw.safetensors");
  return file.tensors.at(name);
}

NamedParameters start(at::ScalarType dtype) {
  NamedParameters named;
  for (const char* name : kNames) {
    named.insert(name, golden(std::string("start.") + name).to(dtype, false, /*copy=*/true));
    named[name].set_requires_grad(true);
  }
  return named;
}

void set_grads(NamedParameters& named, int64_t step) {
  const bool has_cube = golden("has_grad.cube")[step].item<int64_t>() == 1;
  for (auto& parameter : named) {
    const bool is_absent = parameter.key() == "cube" && !has_cube;
    const auto grad = golden("grad." + parameter.key())[step];
    parameter.value().mutable_grad() =
        is_absent ? at::Tensor() : grad.to(parameter.value().scalar_type(), false, true);
  }
}

class AdamWGolden : public ::testing::TestWithParam<std::tuple<at::ScalarType, bool>> {};

TEST_P(AdamWGolden, FollowsTheReferenceStepByStep) {
  const auto [dtype, amsgrad] = GetParam();
  const std::string run = amsgrad ? "amsgrad." : "plain.";
  NamedParameters named = start(dtype);
  const auto options =
      AdamWOptions(1e-3).betas({0.9, 0.95}).eps(1e-8).weight_decay(0.1).amsgrad(amsgrad);
  AdamW optimizer(decay_groups(named, options));

  const int64_t steps = golden("grad.matrix").size(0);
  for (int64_t step = 0; step < steps; ++step) {
    set_grads(named, step);
    optimizer.step();
    for (const auto& parameter : named) {
      SCOPED_TRACE(fmt::format("{} after step {}", parameter.key(), step));
      const auto expected = golden(run + "param." + parameter.key())[step];
      EXPECT_CLOSE(parameter.value(), expected,
                   tolerance_for(dtype, kRoundingsPerStep * (step + 1), magnitude_of(expected)));
    }
  }
  for (const auto& [key, tensor] : optimizer.named_state(named)) {
    if (!key.starts_with("max_")) {
      SCOPED_TRACE(key);
      const auto& expected = golden(run + key);
      EXPECT_CLOSE(tensor, expected,
                   tolerance_for(dtype, kRoundingsPerStep * steps, magnitude_of(expected)));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, AdamWGolden,
                         ::testing::Combine(::testing::Values(at::kFloat, at::kDouble),
                                            ::testing::Bool()),
                         [](const auto& test) {
                           return std::string(c10::toString(std::get<0>(test.param))) +
                                  (std::get<1>(test.param) ? "Amsgrad" : "Plain");
                         });

}  // namespace
}  // namespace mezzo::optim
