// Whether training with 8-bit moments gets where training with fp32 moments gets.
#include <cmath>
#include <numeric>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include "mezzo/optim/compact_adamw.h"
#include "tests/testing.h"

namespace mezzo::optim {
namespace {

at::Tensor some(at::IntArrayRef shape, at::Generator& generator) {
  return at::randn(shape, generator, at::dtype(at::kFloat));
}

/// Two layers, 32 -> 128 -> 32: both matrices have 4096 elements.
struct Mlp {
  explicit Mlp(at::Generator& generator)
      : first((some({128, 32}, generator) / std::sqrt(32.0)).set_requires_grad(true)),
        second((some({32, 128}, generator) / std::sqrt(128.0)).set_requires_grad(true)) {}
  at::Tensor operator()(const at::Tensor& x) const {
    const auto in = [&](const at::Tensor& weight) { return weight.to(at::kFloat).t(); };
    return at::mm(at::mm(x, in(first)).tanh(), in(second));
  }
  at::Tensor first, second;
};

/// log of the loss that a network reaches in imitating another one, on inputs of very different
/// sizes: second moments range over six orders of magnitude within a block.
double log_loss(int64_t seed, const CompactAdamWOptions& options, int64_t steps) {
  auto generator = at::detail::createCPUGenerator(seed);
  const Mlp teacher(generator), student(generator);
  CompactAdamW optimizer({student.first, student.second}, options);
  const at::Tensor sizes = at::logspace(-1.5, 1.5, 32);
  const auto loss_of = [&](int64_t N) {
    const at::Tensor x = some({N, 32}, generator) * sizes;
    return (student(x) - teacher(x).detach()).square().mean();
  };
  for (int64_t step = 0; step < steps; ++step) {
    set_lr(optimizer, 1e-2 * (1 - static_cast<double>(step) / static_cast<double>(steps)));
    optimizer.zero_grad();
    loss_of(64).backward();
    optimizer.step();
  }
  return std::log(loss_of(2048).item<double>());
}

struct Spread {
  double mean, deviation;
};

Spread over_seeds(const CompactAdamWOptions& options, int64_t steps = 300) {
  std::vector<double> losses;
  for (int64_t seed = 1; seed <= 6; ++seed) losses.push_back(log_loss(seed, options, steps));
  const double n = static_cast<double>(losses.size());
  const double mean = std::accumulate(losses.begin(), losses.end(), 0.0) / n;
  double squares = 0.0;
  for (const double loss : losses) squares += (loss - mean) * (loss - mean);
  return {mean, std::sqrt(squares / (n - 1))};
}

// The mean of six differs from a mean of six by less than 3 standard errors of the difference.
TEST(CompactTraining, ReachesTheLossOfFp32MomentsWithinTheNoiseOfSeeds) {
  const auto plain = CompactAdamWOptions().weight_decay(0.0);
  const int threads = at::get_num_threads();
  at::set_num_threads(1);  // the tensors are small
  const Spread untrained = over_seeds(plain, 0), expected = over_seeds(plain);
  for (const bool splits : {false, true}) {
    const Spread actual =
        over_seeds(CompactAdamWOptions(plain).moment_bits(8).split_weights(splits));
    const double error = std::hypot(expected.deviation, actual.deviation) / std::sqrt(6.0);
    EXPECT_LE(std::abs(actual.mean - expected.mean), 3 * error)
        << expected.mean << " " << expected.deviation << " " << actual.mean << " "
        << actual.deviation;
    EXPECT_LT(actual.mean, untrained.mean - std::log(10.0)) << "it has learnt";
  }
  at::set_num_threads(threads);
}

// An element whose gradients end while its block's go on: its m must fade before its v does. Its
// root of v is kept to a quarter at least, so that it moves at most four times as far, on average.
TEST(CompactTraining, AnElementWithoutGradientsComesToRest) {
  const auto moved = [](int64_t bits) {
    auto generator = at::detail::createCPUGenerator(1);
    const auto weight = at::zeros({64, 64}).set_requires_grad(true);
    CompactAdamW optimizer({weight}, CompactAdamWOptions(1e-3).weight_decay(0).moment_bits(bits));
    at::Tensor before;
    for (int64_t step = 0; step < 3000; ++step) {
      weight.mutable_grad() = some({64, 64}, generator);
      if (step == 100) before = weight.detach().clone();
      if (step >= 100) weight.mutable_grad().slice(1, 0, 16).zero_();
      optimizer.step();
    }
    return (weight.detach() - before).slice(1, 0, 16).abs().mean().item<double>();
  };
  EXPECT_LE(moved(8), 4 * moved(32));
}

}  // namespace
}  // namespace mezzo::optim
