#include "mezzo/amp/unscale.h"

#include <cmath>
#include <limits>
#include <vector>

#include <ATen/ATen.h>
#include <torch/optim/sgd.h>

#include "mezzo/base/check.h"
#include "tests/close.h"
#include "tests/testing.h"

namespace mezzo {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

// Awkward sizes, one strided, one without dimensions, one empty.
std::vector<at::Tensor> gradients(at::ScalarType dtype) {
  at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(11);
  std::vector<at::Tensor> grads;
  for (const int64_t size : {1, 31, 33, 257}) {
    grads.push_back((at::randn({size}, generator) * 1000).to(dtype));
  }
  grads.push_back((at::randn({7, 5}, generator) * 1000).to(dtype).t());
  grads.push_back(at::full({}, 1234.5, dtype));
  grads.push_back(at::empty({0}, dtype));
  return grads;
}

std::vector<at::Tensor> copies(const std::vector<at::Tensor>& tensors) {
  std::vector<at::Tensor> copied;
  for (const at::Tensor& tensor : tensors) copied.push_back(tensor.clone());
  return copied;
}

void expect_plain_equals_kernel(const std::vector<at::Tensor>& grads, double scale) {
  const at::Tensor inv_scale = at::full({}, 1.0 / scale, at::kFloat);
  std::vector<at::Tensor> by_kernel = copies(grads), by_plain = copies(grads);
  at::Tensor kernel_found = at::zeros({}), plain_found = at::zeros({});
  at::_amp_foreach_non_finite_check_and_unscale_(by_kernel, kernel_found, inv_scale);
  check_and_unscale_plain_(by_plain, plain_found, inv_scale);
  EXPECT_BIT_EQUAL(plain_found, kernel_found);
  for (size_t i = 0; i < grads.size(); ++i) {
    if (!std::isfinite(grads[i].sum().item<float>())) continue;  // NaNs have many bit patterns
    EXPECT_BIT_EQUAL(by_plain[i], by_kernel[i]);
  }
}

TEST(Unscale, PlainOpsEqualTheKernel) {
  for (const at::ScalarType dtype : {at::kBFloat16, at::kHalf, at::kFloat}) {
    for (const double scale : {1.0, 65536.0, 1000.0}) {
      expect_plain_equals_kernel(gradients(dtype), scale);
      for (const float bad : {kInf, -kInf, kNaN}) {
        for (size_t where = 0; where < 5; ++where) {
          std::vector<at::Tensor> grads = gradients(dtype);
          grads[where].select(0, -1).fill_(bad);
          expect_plain_equals_kernel(grads, scale);
        }
      }
    }
  }
}

TEST(Unscale, PlainOpsKeepAnEarlierFoundInf) {
  at::Tensor found_inf = at::ones({});
  check_and_unscale_plain_({at::ones({3}, at::kBFloat16)}, found_inf, at::ones({}));
  EXPECT_EQ(found_inf.item<float>(), 1.0f);
}

TEST(Unscale, LargestFiniteBf16GradientIsNoOverflow) {
  at::Tensor found_inf = at::zeros({});
  const at::Tensor grad = at::full({2}, 0x1.fep127, at::kBFloat16);
  check_and_unscale_plain_({grad}, found_inf, at::full({}, 0.5));
  EXPECT_EQ(found_inf.item<float>(), 0.0f);
  EXPECT_EQ(grad[0].item<float>(), 0x1.fep126f);
}

TEST(Unscale, MixedDtypesAreCheckedTogether) {
  std::vector<at::Tensor> parameters;
  for (const auto dtype : {at::kFloat, at::kBFloat16, at::kDouble, at::kHalf}) {
    parameters.push_back(at::ones({3}, dtype).requires_grad_());
    parameters.back().mutable_grad() = at::full({3}, 8.0, dtype);
  }
  torch::optim::SGD optimizer(parameters, 0.1);
  EXPECT_EQ(unscale_gradients(optimizer, at::full({}, 0.25), true).found_inf.item<float>(), 0.0f);
  for (const at::Tensor& parameter : parameters) {
    EXPECT_TRUE(at::equal(parameter.grad(), at::full({3}, 2.0, parameter.scalar_type())));
  }
  for (const at::Tensor& bad : parameters) {
    const at::Tensor kept = bad.grad().clone();
    bad.mutable_grad().fill_(kInf);
    EXPECT_EQ(unscale_gradients(optimizer, at::ones({}), true).found_inf.item<float>(), 1.0f);
    bad.mutable_grad().copy_(kept);
  }
}

TEST(Unscale, WithoutGradientsThereIsNothingToTell) {
  torch::optim::SGD optimizer({at::ones({3}).requires_grad_()}, 0.1);
  EXPECT_FALSE(unscale_gradients(optimizer, at::ones({}), false).found_inf.defined());
}

TEST(Unscale, TellsWhatEachGradientHeldBefore) {
  const at::Tensor a = at::ones({3}).requires_grad_(), b = at::ones({2, 2}).requires_grad_();
  const at::Tensor without = at::ones({2}).requires_grad_();
  a.mutable_grad() = at::tensor({0.0f, -8.0f, 0x1p-15f});
  b.mutable_grad() = at::full({2, 2}, kInf);
  torch::optim::SGD optimizer({without, a, b}, 0.1);
  const auto gradients = unscale_gradients(optimizer, at::full({}, 0.25), false).gradients;
  ASSERT_EQ(gradients.size(), 2u);
  EXPECT_TRUE(gradients[0].parameter.is_same(a));
  EXPECT_EQ(*gradients[0].facts,
            (kernels::TensorStats{.numel = 3, .zeros = 1, .subnormals = 1, .largest = 8.0}));
  EXPECT_EQ(*gradients[1].facts, (kernels::TensorStats{.numel = 4, .positive_inf = 4}));
}

TEST(Unscale, OfASparseGradientTheValuesAreLookedInto) {
  const at::Tensor table = at::ones({5, 2}).requires_grad_();
  table.mutable_grad() = at::sparse_coo_tensor(at::tensor({1, 3}, at::kLong).view({1, 2}),
                                               at::tensor({1.0f, kNaN, 0.0f, 6.0f}).view({2, 2}));
  torch::optim::SGD optimizer({table}, 0.1);
  const auto [found_inf, gradients] = unscale_gradients(optimizer, at::full({}, 0.5), false);
  EXPECT_EQ(found_inf.item<float>(), 1.0f);
  EXPECT_EQ(*gradients[0].facts,
            (kernels::TensorStats{.numel = 4, .nan = 1, .zeros = 1, .largest = 6.0}));
  EXPECT_EQ(table.grad()._values()[1][1].item<float>(), 3.0f);
}

TEST(Unscale, AParameterListedTwiceIsUnscaledOnce) {
  const at::Tensor shared = at::ones({2}).requires_grad_();
  shared.mutable_grad() = at::full({2}, 4.0);
  torch::optim::SGD optimizer({shared, shared}, 0.1);
  EXPECT_EQ(unscale_gradients(optimizer, at::full({}, 0.5), false).gradients.size(), 1u);
  EXPECT_EQ(shared.grad()[0].item<float>(), 2.0f);
}

TEST(Unscale, ARefusedFp16GradientLeavesAllOthersAsTheyAre) {
  const at::Tensor wide = at::ones({2}).requires_grad_();
  const at::Tensor narrow = at::ones({2}, at::kHalf).requires_grad_();
  wide.mutable_grad() = at::full({2}, 4.0);
  narrow.mutable_grad() = at::full({2}, 4.0, at::kHalf);
  torch::optim::SGD optimizer({wide, narrow}, 0.1);
  EXPECT_THROW_WITH(unscale_gradients(optimizer, at::full({}, 0.5), false), "is fp16");
  EXPECT_EQ(wide.grad()[0].item<float>(), 4.0f);
}

}  // namespace
}  // namespace mezzo
