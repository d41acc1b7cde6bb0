// Under the mezzo policy an op on a CPU is safe for fp16 values whose squares, sums and powers are
// beyond fp16's range, whether a cast protects it or the fp32 statistics inside its kernel.

#include <functional>

#include <ATen/ATen.h>

#include "mezzo/amp/autocast.h"
#include "tests/testing.h"

namespace mezzo {
namespace {

struct Op {
  const char* name;
  std::function<at::Tensor(const at::Tensor&)> run;
};

std::ostream& operator<<(std::ostream& out, const Op& op) { return out << op.name; }

// 600 and its like: squares are 360000, and the sum of 512 of them is 3e5; fp16 ends at 65504.
at::Tensor large() {
  at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(5);
  return (at::rand({4, 8, 64}, generator) + 0.5).mul(600).to(at::kHalf);
}

class ProtectedOp : public ::testing::TestWithParam<Op> {};

TEST_P(ProtectedOp, IsAsExactAsInFp32) {
  const at::Tensor x = large();
  const at::Tensor expected = GetParam().run(x.to(at::kFloat));
  at::Tensor actual;
  {
    const Autocast autocast(at::kCPU, at::kHalf);
    actual = GetParam().run(x);
  }
  ASSERT_TRUE(at::isfinite(expected).all().item<bool>());
  // Two roundings to fp16 at most (inside a composite op, and of the result), and fp32 sums of 2048
  // terms in another order.
  const double tolerance = 2 * 0x1p-11 + 2048 * 0x1p-24;
  EXPECT_TRUE(at::allclose(actual.to(at::kFloat), expected, tolerance, /*atol=*/tolerance))
      << "largest difference " << (actual.to(at::kFloat) - expected).abs().max().item<float>();
}

const at::Tensor kNone;

INSTANTIATE_TEST_SUITE_P(
    Ops, ProtectedOp,
    ::testing::Values(
        Op{"layer_norm", [](const at::Tensor& x) { return at::layer_norm(x, {64}); }},
        Op{"rms_norm", [](const at::Tensor& x) { return at::rms_norm(x, {64}); }},
        Op{"group_norm", [](const at::Tensor& x) { return at::group_norm(x, 2); }},
        Op{"batch_norm",
           [](const at::Tensor& x) {
             return at::batch_norm(x, kNone, kNone, kNone, kNone, true, 0.1, 1e-5, false);
           }},
        Op{"instance_norm",
           [](const at::Tensor& x) {
             return at::instance_norm(x, kNone, kNone, kNone, kNone, true, 0.1, 1e-5, false);
           }},
        Op{"softmax", [](const at::Tensor& x) { return at::softmax(x, -1); }},
        Op{"log_softmax", [](const at::Tensor& x) { return at::log_softmax(x, -1); }},
        Op{"sum", [](const at::Tensor& x) { return at::sum(x); }},
        Op{"mean", [](const at::Tensor& x) { return at::mean(x); }},
        Op{"pow", [](const at::Tensor& x) { return at::pow(x, 2); }},
        Op{"exp", [](const at::Tensor& x) { return at::exp(x / 32); }},
        Op{"cumsum", [](const at::Tensor& x) { return at::cumsum(x, -1).slice(-1, 0, 64); }},
        Op{"norm", [](const at::Tensor& x) { return at::norm(x, 2); }},
        Op{"vector_norm", [](const at::Tensor& x) { return at::linalg_vector_norm(x); }},
        Op{"logsumexp", [](const at::Tensor& x) { return at::logsumexp(x, {-1}); }},
        Op{"mse_loss", [](const at::Tensor& x) { return at::mse_loss(x, at::zeros_like(x)); }}),
    [](const auto& test) { return std::string(test.param.name); });

}  // namespace
}  // namespace mezzo
