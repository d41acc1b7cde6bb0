#include "mezzo/numerics/magnitudes.h"

#include <limits>

#include <ATen/ATen.h>

#include "mezzo/base/float_format.h"
#include "tests/testing.h"

namespace mezzo::numerics {
namespace {

int64_t at_exponent(const Magnitudes& m, int exponent) {
  return m.counts.at(static_cast<size_t>(exponent - Magnitudes::kFirstExponent));
}

TEST(Magnitudes, CountsByPowerOfTwoWhateverTheSign) {
  const Magnitudes m = magnitudes_of({at::tensor({1.0f, -1.5f, 2.0f, 0x1p-24f, -0x1.8p-24f})});
  EXPECT_EQ(m.values, 5);
  EXPECT_EQ(at_exponent(m, 0), 2);
  EXPECT_EQ(at_exponent(m, 1), 1);
  EXPECT_EQ(at_exponent(m, -24), 2);
}

TEST(Magnitudes, TellsZerosAndNonFiniteApart) {
  const float inf = std::numeric_limits<float>::infinity();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const Magnitudes m = magnitudes_of({at::tensor({0.0f, -0.0f, inf, -inf, nan, 0x1p-140f, 3.0f})});
  EXPECT_EQ(m.zeros, 2);
  EXPECT_EQ(m.nonfinite, 3);
  EXPECT_EQ(at_exponent(m, -127), 1);
  EXPECT_EQ(at_exponent(m, 1), 1);
}

TEST(Magnitudes, AddUpToAllValuesOfAllTensors) {
  at::manual_seed(1);
  const Magnitudes m = magnitudes_of(
      {at::randn({33, 7}), at::Tensor(), at::randn({5}).to(at::kHalf), at::zeros({4})});
  int64_t sum = m.zeros + m.nonfinite;
  for (const int64_t count : m.counts) sum += count;
  EXPECT_EQ(sum, 33 * 7 + 5 + 4);
  EXPECT_EQ(m.values, sum);
}

// Against the conversion itself, over every binade around fp16's lower end.
TEST(Magnitudes, ForeseesWhatUnderflowsInAFormat) {
  for (const double scale : {1.0, 16.0}) {
    std::vector<at::Tensor> numbers;
    for (int exponent = -40; exponent < 10; ++exponent)
      numbers.push_back(at::tensor({1.25f, 1.75f}) * std::ldexp(1.0, exponent));
    numbers.push_back(at::zeros({3}));
    const at::Tensor all = at::cat(numbers);
    const int64_t lost = (all * scale).to(at::kHalf).eq(0).sum().item<int64_t>();
    EXPECT_EQ(magnitudes_of({all}).zeros_in(float_format(at::kHalf), scale), lost) << scale;
    EXPECT_EQ(magnitudes_of({all}).zeros_in(float_format(at::kBFloat16), scale), 3);
  }
}

}  // namespace
}  // namespace mezzo::numerics
