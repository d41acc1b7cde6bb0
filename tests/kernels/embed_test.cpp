#include "mezzo/kernels/embed/embed.h"

#include <optional>

#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>

#include "mezzo/base/check.h"
#include "mezzo/base/float_format.h"
#include "tests/close.h"
#include "tests/devices.h"
#include "tests/kernels/tensors.h"
#include "tests/testing.h"

namespace mezzo::kernels {
namespace {

const Random random(4);

const at::Tensor kTokens = at::tensor({5, 0, 5, 2, 5, 6, 6, 1}, at::kLong).view({2, 4});

class EmbedOn : public mezzo::testing::OnDevice<> {};

TEST_P(EmbedOn, AddsTokenAndPositionInTheDtypeOfTheStream) {
  const at::Tensor table = random.leaf({7, 33}, at::kBFloat16),
                   positions = random.leaf({9, 33}, at::kBFloat16);
  const at::Tensor y = embed(there(kTokens), there(table), there(positions), at::kFloat, false);
  EXPECT_BIT_EQUAL(here(y.detach()), (at::embedding(table, kTokens).to(at::kFloat) +
                                      positions.slice(0, 0, 4).to(at::kFloat))
                                         .detach());
}

TEST_P(EmbedOn, WithoutPositionsLooksUpTheTokenAlone) {
  const at::Tensor table = random.leaf({7, 33}, at::kBFloat16, device);
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    const at::Tensor y = embed(there(kTokens), table, {}, dtype, false);
    EXPECT_BIT_EQUAL(here(y.detach()), at::embedding(here(table.detach()), kTokens).to(dtype));
  }
}

// The node has one input fewer then, and must not ask whether its gradient is wanted.
TEST_P(EmbedOn, WithoutPositionsTheTableHasTheSameGradient) {
  const at::Tensor table = random.leaf({7, 33}, at::kBFloat16, device),
                   positions = random.leaf({4, 33}, at::kBFloat16, device),
                   grad = there(random({2, 4, 33}));
  const auto gradient = [&](const std::optional<at::Tensor>& of_places, bool sparse) {
    const at::Tensor y = embed(there(kTokens), table, of_places, at::kFloat, sparse);
    return torch::autograd::grad({y}, {table}, {grad})[0];
  };
  const at::Tensor expected = here(gradient(positions, false));
  EXPECT_BIT_EQUAL(here(gradient({}, false)), expected);
  EXPECT_BIT_EQUAL(here(gradient({}, true).to_dense()), expected);
}

TEST_P(EmbedOn, GradientsAreSumsOverThePlacesOfAToken) {
  const at::Tensor table = random.leaf({7, 33}, at::kFloat, device),
                   positions = random.leaf({9, 33}, at::kFloat, device);
  const at::Tensor grad = random.leaf({2, 4, 33}, at::kFloat).detach();
  embed(there(kTokens), table, positions, at::kFloat, false).backward(there(grad));
  const at::Tensor exact = grad.to(at::kDouble);
  const at::Tensor by_table =
      at::zeros({7, 33}, at::kDouble).index_add(0, kTokens.flatten(), exact.view({8, 33}));
  const double tolerance = tolerance_for(at::kFloat, 3, 3 * mezzo::testing::magnitude_of(grad));
  EXPECT_CLOSE(here(table.grad()), by_table, tolerance);
  EXPECT_CLOSE(here(positions.grad()).slice(0, 0, 4), exact.sum(0), tolerance);
  EXPECT_CLOSE(positions.grad().slice(0, 4, 9), at::zeros({5, 33}), 0.0);
}

// A sparse gradient is made on a CPU alone.
TEST(Embed, SparseGradientHoldsTheSameRows) {
  const at::Tensor table = random.leaf({7, 33}, at::kBFloat16),
                   positions = random.leaf({4, 33}, at::kFloat);
  const at::Tensor grad = random.leaf({2, 4, 33}, at::kFloat).detach();
  embed(kTokens, table, positions, at::kFloat, false).backward(grad);
  const at::Tensor dense = table.grad();
  table.mutable_grad() = at::Tensor();
  embed(kTokens, table, positions, at::kFloat, true).backward(grad);
  EXPECT_TRUE(table.grad().is_sparse());
  EXPECT_EQ(table.grad()._nnz(), 5);
  EXPECT_BIT_EQUAL(table.grad().to_dense(), dense);
}

// 1000 times 1/256 beside a sum of 4 would be lost in bf16, one by one.
TEST_P(EmbedOn, SumsATokenThatComesOftenInFp32) {
  const at::Tensor tokens = there(at::zeros({1, 1001}, at::kLong)),
                   table = there(at::zeros({2, 1}, at::kBFloat16)).requires_grad_(),
                   positions = there(at::zeros({1001, 1}, at::kFloat));
  at::Tensor grad = at::full({1, 1001, 1}, 1.0 / 256);
  grad[0][0][0] = 4.0;
  embed(tokens, table, positions, at::kFloat, false).backward(there(grad));
  EXPECT_EQ(table.grad()[0][0].item<float>(),
            at::scalar_tensor(4.0 + 1000.0 / 256).to(at::kBFloat16).item<float>());
}

INSTANTIATE_TEST_SUITE_P(Devices, EmbedOn, mezzo::testing::on_devices(),
                         mezzo::testing::device_alone);

TEST(Embed, ItsSparseGradientIsAddedIntoTheHeadsInPlace) {
  const at::Tensor table = random.leaf({7, 33}, at::kBFloat16),
                   positions = random.leaf({4, 33}, at::kFloat);
  const at::Tensor y = embed(kTokens, table, positions, at::kBFloat16, true);
  at::linear(y, table).sum().backward();
  EXPECT_FALSE(table.grad().is_sparse());
  EXPECT_EQ(table.grad().scalar_type(), at::kBFloat16);
}

TEST(Embed, TakesAGradientOfAnyStrides) {
  const at::Tensor table = random.leaf({7, 33}, at::kFloat),
                   positions = random.leaf({4, 33}, at::kFloat);
  const at::Tensor grad = random.leaf({4, 2, 33}, at::kFloat).detach().transpose(0, 1);
  const auto gradients = [&](const at::Tensor& of_y) {
    const at::Tensor y = embed(kTokens, table, positions, at::kFloat, false);
    return torch::autograd::grad({y}, {table, positions}, {of_y});
  };
  const auto strided = gradients(grad), dense = gradients(grad.contiguous());
  EXPECT_BIT_EQUAL(strided[0], dense[0]);
  EXPECT_BIT_EQUAL(strided[1], dense[1]);
}

TEST(Embed, OfNoRowGivesGradientsOfZero) {
  const at::Tensor table = random.leaf({7, 33}, at::kFloat),
                   positions = random.leaf({4, 33}, at::kFloat);
  embed(kTokens.slice(0, 0, 0), table, positions, at::kFloat, false).sum().backward();
  EXPECT_BIT_EQUAL(table.grad(), at::zeros({7, 33}));
  EXPECT_BIT_EQUAL(positions.grad(), at::zeros({4, 33}));
}

// A single position would be added to every token.
TEST(Embed, RefusesRowsOfMoreTokensThanThereArePositions) {
  const at::Tensor table = random.leaf({7, 33}, at::kFloat),
                   positions = random.leaf({1, 33}, at::kFloat);
  EXPECT_THROW_WITH(embed(kTokens, table, positions, at::kFloat, false),
                    "a row has 4 tokens, but there are only 1 positions");
}

// As libtorch's embedding, but its gradient, would take ids of 32 bits.
TEST(Embed, NamesWhatHasAnotherTypeOrShape) {
  const at::Tensor table = random.leaf({7, 33}, at::kFloat),
                   positions = random.leaf({4, 33}, at::kFloat);
  const auto call = [&](const at::Tensor& tokens, const std::optional<at::Tensor>& of_places) {
    return embed(tokens, table, of_places, at::kFloat, false);
  };
  EXPECT_THROW_WITH(call(kTokens.to(at::kInt), positions),
                    "tokens must be int64 [B, T], but are Int [2, 4]");
  EXPECT_THROW_WITH(call(kTokens[0], positions), "but are Long [4]");
  EXPECT_THROW_WITH(call(kTokens[0], {}), "but are Long [4]");
  EXPECT_THROW_WITH(call(kTokens, random.leaf({4, 1}, at::kFloat)),
                    "table and positions must be [V, C] and [L, C], but are [7, 33] and [4, 1]");
  EXPECT_THROW_WITH(call(kTokens, random.leaf({33}, at::kFloat)), "but are [7, 33] and [33]");
  EXPECT_THROW_WITH(embed(kTokens, table[0], {}, at::kFloat, false),
                    "table must be [V, C], but is [33]");
}

TEST(Embed, LeavesAFrozenTableWithoutAGradient) {
  const at::Tensor table = random.leaf({7, 33}, at::kFloat).detach(),
                   positions = random.leaf({4, 33}, at::kFloat);
  embed(kTokens, table, positions, at::kFloat, true).sum().backward();
  EXPECT_FALSE(table.grad().defined());
  EXPECT_BIT_EQUAL(positions.grad(), at::full({4, 33}, 2.0));
}

TEST(Embed, NamesAnIdOutOfRange) {
  const at::Tensor table = random.leaf({6, 33}, at::kFloat),
                   positions = random.leaf({4, 33}, at::kFloat);
  EXPECT_THROW_WITH(embed(kTokens, table, positions, at::kFloat, false),
                    "token ids must be in [0, 6), but go from 0 to 6");
}

}  // namespace
}  // namespace mezzo::kernels
