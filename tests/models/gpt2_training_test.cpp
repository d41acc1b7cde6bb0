// Twenty training steps of GPT-2 with AdamW and clipping against the same run in Python: the one
// test that sees model, loss, clipping and optimizer work on each other's results.
#include <ATen/ATen.h>

#include "mezzo/base/float_format.h"
#include "mezzo/optim/adamw.h"
#include "mezzo/optim/clip.h"
#include "mezzo/optim/parameter_groups.h"
#include "tests/close.h"
#include "tests/models/gpt2_tiny.h"
#include "tests/testing.h"

namespace mezzo::models {
namespace {

using testing::magnitude_of;

class GPT2Training : public ::testing::TestWithParam<at::ScalarType> {};

TEST_P(GPT2Training, FollowsTheReferencesLossesAndNorms) {
  const auto tokens = tiny_golden("tokens"), targets = tiny_golden("targets");
  const auto losses = tiny_golden("train.losses"), norms = tiny_golden("train.norms");
  const int64_t length = grad_length(tiny_config(), tokens.size(1), tokens.size(2));
  GPT2 model = tiny_gpt2(GetParam());
  optim::AdamW optimizer(optim::decay_groups(
      model->named_parameters(),
      optim::AdamWOptions(1e-3).betas({0.9, 0.95}).eps(1e-8).weight_decay(0.1)));

  for (int64_t step = 0; step < tokens.size(0); ++step) {
    SCOPED_TRACE(step);
    optimizer.zero_grad();
    const auto loss = model->loss(tokens[step], targets[step]);
    loss.backward();
    const auto norm = optim::clip_grad_norm_(model->parameters(), 1.0);
    optimizer.step();
    // Each step continues from the last one's roundings.
    const int64_t chain = (step + 1) * length;
    EXPECT_CLOSE(loss, losses[step], tolerance_for(GetParam(), chain, magnitude_of(losses[step])));
    EXPECT_CLOSE(norm, norms[step], tolerance_for(GetParam(), chain, magnitude_of(norms[step])));
  }
}

INSTANTIATE_TEST_SUITE_P(Dtypes, GPT2Training, ::testing::Values(at::kFloat, at::kDouble),
                         [](const auto& test) { return c10::toString(test.param); });

}  // namespace
}  // namespace mezzo::models
