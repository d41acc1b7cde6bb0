// GPT-2 against the same model written in Python, computed in fp64. In fp64 a wrong epsilon or the
// other GELU is millions of tolerances away; fp32 is what runs.
#include <algorithm>

#include <ATen/ATen.h>

#include "mezzo/base/float_format.h"
#include "tests/close.h"
#include "tests/models/gpt2_tiny.h"
#include "tests/testing.h"

namespace mezzo::models {
namespace {

using testing::magnitude_of;

class GPT2Golden : public ::testing::TestWithParam<at::ScalarType> {
 protected:
  const ModelConfig config = tiny_config();
  const at::Tensor tokens = tiny_golden("tokens")[0], targets = tiny_golden("targets")[0];
  const int64_t B = tokens.size(0), T = tokens.size(1);
  GPT2 model = tiny_gpt2(GetParam());
};

TEST_P(GPT2Golden, LogitsEqualTheReference) {
  const auto expected = tiny_golden("logits");
  const auto logits = model(tokens);
  EXPECT_EQ(logits.scalar_type(), GetParam());
  EXPECT_CLOSE(logits, expected,
               tolerance_for(GetParam(), forward_length(config, T), magnitude_of(expected)));
}

TEST_P(GPT2Golden, LossEqualsTheReference) {
  const auto expected = tiny_golden("loss");
  const auto loss = model->loss(tokens, targets);
  EXPECT_EQ(loss.dim(), 0);
  EXPECT_CLOSE(loss, expected,
               tolerance_for(GetParam(), loss_length(config, B, T), magnitude_of(expected)));
}

TEST_P(GPT2Golden, EveryGradientEqualsTheReference) {
  model->loss(tokens, targets).backward();
  double magnitude = 0;  // a small gradient is what is left of sums of larger ones
  for (const auto& parameter : model->named_parameters()) {
    magnitude = std::max(magnitude, magnitude_of(tiny_golden("grad." + parameter.key())));
  }
  const double tolerance = tolerance_for(GetParam(), grad_length(config, B, T), magnitude);
  for (const auto& parameter : model->named_parameters()) {
    SCOPED_TRACE(parameter.key());
    EXPECT_CLOSE(parameter.value().grad(), tiny_golden("grad." + parameter.key()), tolerance);
  }
}

TEST(GPT2, HasExactlyTheReferencesParameters) {
  std::vector<std::string> expected, names;
  for (const auto& [name, tensor] : tiny_golden().tensors) {
    if (name.starts_with("weight.")) {
      expected.push_back(name.substr(std::string("weight.").size()));
    }
  }
  const GPT2 model(tiny_config());
  for (const auto& parameter : model->named_parameters()) {
    names.push_back(parameter.key());
    EXPECT_EQ(parameter.value().sizes(), tiny_golden("weight." + parameter.key()).sizes());
  }
  EXPECT_THAT(names, ::testing::UnorderedElementsAreArray(expected));
}

INSTANTIATE_TEST_SUITE_P(Dtypes, GPT2Golden, ::testing::Values(at::kFloat, at::kDouble),
                         [](const auto& test) { return c10::toString(test.param); });

}  // namespace
}  // namespace mezzo::models
