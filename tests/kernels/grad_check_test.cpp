#include "mezzo/kernels/grad_check/grad_check.h"

#include <cmath>
#include <limits>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include "mezzo/base/error.h"
#include "tests/close.h"
#include "tests/devices.h"
#include "tests/testing.h"

namespace mezzo::kernels {
namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr double kNormal = 0x1p-14;  // fp16's
constexpr at::ScalarType kDtypes[] = {at::kFloat, at::kHalf, at::kBFloat16, at::kDouble};

/// Magnitudes from below fp16's subnormals to near its end, with a zero here and there.
at::Tensor some(at::IntArrayRef shape, int64_t seed, at::ScalarType dtype) {
  const auto generator = at::detail::createCPUGenerator(static_cast<uint64_t>(seed));
  const at::Tensor exponents = at::rand(shape, generator, at::kDouble) * 38 - 24;
  const at::Tensor signs = at::randn(shape, generator, at::kDouble).sign();
  const at::Tensor is_kept = at::rand(shape, generator, at::kDouble).gt(0.1);
  return (exponents.exp2() * signs * is_kept).to(dtype);
}

/// Awkward sizes, more than a block, transposed, with holes, without dimensions, empty.
std::vector<at::Tensor> awkward(at::ScalarType dtype) {
  return {some({1}, 1, dtype),         some({31}, 2, dtype),
          some({257, 33}, 3, dtype),   some({4097}, 4, dtype),
          some({31, 9}, 5, dtype).t(), some({64, 64}, 6, dtype).slice(1, 3, 34),
          some({}, 7, dtype),          some({0, 3}, 8, dtype)};
}

std::vector<at::Tensor> copies(const std::vector<at::Tensor>& tensors,
                               at::Device device = at::kCPU) {
  std::vector<at::Tensor> copied;
  for (const at::Tensor& tensor : tensors) {
    copied.push_back(
        at::empty_strided(tensor.sizes(), tensor.strides(), tensor.options().device(device)));
    copied.back().copy_(tensor);
  }
  return copied;
}

/// The last element of each that is bad in turn.
std::vector<at::Tensor> with(double bad, std::vector<at::Tensor> grads, size_t place) {
  grads[place].view({-1})[-1] = bad;
  return grads;
}

/// A 16-bit NaN may be any, and so may a GPU's: they are compared as one.
at::Tensor with_one_nan(const at::Tensor& grad, at::Device device) {
  if (device.is_cpu() && grad.element_size() > 2) return grad;
  return grad.masked_fill(at::isnan(grad), kNaN);
}

void expect_libtorchs(const std::vector<at::Tensor>& grads, float inv_scale, at::Device device) {
  std::vector<at::Tensor> ours = copies(grads, device), theirs = copies(grads);
  at::Tensor found_inf = at::zeros({});
  at::_amp_foreach_non_finite_check_and_unscale_(theirs, found_inf, at::full({}, inv_scale));
  int64_t bad = 0;
  for (const TensorStats& facts : check_and_unscale_(ours, inv_scale, kNormal))
    bad += facts.non_finite();
  EXPECT_EQ(bad > 0 ? 1.0f : 0.0f, found_inf.item<float>());
  for (size_t i = 0; i < grads.size(); ++i)
    EXPECT_BIT_EQUAL(with_one_nan(ours[i], device), with_one_nan(theirs[i], device));
}

class GradCheckOn : public mezzo::testing::OnDevice<> {};

TEST_P(GradCheckOn, UnscalesToTheBitsOfLibtorchsOpAndFindsWhatItFinds) {
  for (const auto dtype : kDtypes) {
    for (const float inv_scale : {1.0f, 0x1p-16f, 0x1p-40f, 1.0f / 3, 1000.0f, 0.0f}) {
      expect_libtorchs(awkward(dtype), inv_scale, device);
      for (const double bad : {kInf, -kInf, kNaN}) {
        for (const size_t place : {0, 1, 2, 3})
          expect_libtorchs(with(bad, awkward(dtype), place), inv_scale, device);
      }
    }
  }
}

TEST_P(GradCheckOn, CountsEachKind) {
  for (const auto dtype : kDtypes) {
    const at::Tensor grad =
        at::tensor({kNaN, kInf, -kInf, kInf, 0.0, -0.0, 0x1p-15, -0x1p-24, 0x1p-14, 0.5, -12.0})
            .to(dtype);
    const TensorStats expected{.numel = 11,
                               .nan = 1,
                               .positive_inf = 2,
                               .negative_inf = 1,
                               .zeros = 2,
                               .subnormals = 2,
                               .largest = 12.0};
    EXPECT_EQ(check_and_unscale_({there(grad)}, 0.5f, kNormal).front(), expected) << dtype;
  }
}

TEST_P(GradCheckOn, FactsAreThoseOfTheReference) {
  for (const auto dtype : kDtypes) {
    for (const double normal : {0x1p-14, 0x1p-126, 3e-5}) {
      const std::vector<at::Tensor> grads = with(kNaN, with(-kInf, awkward(dtype), 2), 3);
      const std::vector<TensorStats> facts =
          check_and_unscale_(copies(grads, device), 0.25f, normal);
      for (size_t i = 0; i < grads.size(); ++i) {
        const at::Tensor copy = grads[i].clone();
        EXPECT_EQ(facts[i], reference::check_and_unscale_(copy, 0.25f, normal))
            << dtype << " " << i;
      }
    }
  }
}

TEST_P(GradCheckOn, ABlockFullOfOneKindIsCountedToTheEnd) {
  for (const auto dtype : kDtypes) {
    for (const double value : {kNaN, kInf, -kInf, 0.0, 0x1p-15}) {
      const at::Tensor grad = at::full({9'000}, value, dtype);
      EXPECT_EQ(check_and_unscale_({there(grad)}, 1.0f, kNormal).front(),
                reference::check_and_unscale_(grad, 1.0f, kNormal))
          << dtype << " " << value;
    }
  }
}

TEST_P(GradCheckOn, TheLargestIsFiniteWhateverStandsBesideIt) {
  const at::Tensor grad = there(at::tensor({65504.0, kInf, kNaN, -1e30}).to(at::kFloat)),
                   nans = there(at::full({3}, kNaN));
  EXPECT_EQ(check_and_unscale_({grad}, 1.0f, kNormal).front().largest, static_cast<double>(1e30f));
  EXPECT_EQ(check_and_unscale_({nans}, 1.0f, kNormal).front().largest, 0.0);
}

TEST(GradCheck, HasTheSameBitsForAnyNumberOfThreads) {
  const int threads = at::get_num_threads();
  std::vector<at::Tensor> grads = awkward(at::kFloat);
  grads.push_back(some({200'000}, 9, at::kHalf));
  grads.back()[123'456] = kInf;
  at::set_num_threads(1);
  const std::vector<at::Tensor> expected = copies(grads);
  const std::vector<TensorStats> expected_facts = check_and_unscale_(expected, 0.3f, kNormal);
  for (const int n : {2, 5}) {
    at::set_num_threads(n);
    const std::vector<at::Tensor> got = copies(grads);
    EXPECT_EQ(check_and_unscale_(got, 0.3f, kNormal), expected_facts) << n;
    for (size_t i = 0; i < grads.size(); ++i) EXPECT_BIT_EQUAL(got[i], expected[i]);
  }
  at::set_num_threads(threads);
}

TEST_P(GradCheckOn, AnInverseOfOneOnlyReads) {
  const at::Tensor grad = there(at::full({5}, 3.0));
  const auto version = grad._version();
  check_and_unscale_({grad}, 1.0f, kNormal);
  EXPECT_EQ(grad._version(), version);
  check_and_unscale_({grad}, 0.5f, kNormal);
  EXPECT_EQ(grad._version(), version + 1);
}

TEST_P(GradCheckOn, RefusesAnotherDtypeAndChangesNothing) {
  const at::Tensor grad = there(at::ones({2})), integers = there(at::ones({2}, at::kInt));
  EXPECT_THROW_WITH(check_and_unscale_({grad, integers}, 0.5f, kNormal),
                    "must be fp32, fp16, bf16 or fp64, but is Int");
  EXPECT_EQ(grad[0].item<float>(), 1.0f);
}

INSTANTIATE_TEST_SUITE_P(Devices, GradCheckOn, mezzo::testing::on_devices(),
                         mezzo::testing::device_alone);

}  // namespace
}  // namespace mezzo::kernels
