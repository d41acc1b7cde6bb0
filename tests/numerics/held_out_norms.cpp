// Held-out faults of what divides by a size: norms, variances, ranges.

#include <limits>

#include <ATen/ops/layer_norm.h>
#include <ATen/ops/zeros.h>

#include "tests/numerics/fault.h"

namespace mezzo::numerics::faults {
namespace {

using at::Tensor;

constexpr int64_t kZeroSample = 3;

Patient with_activation(const Unary& activation, const Setup& setup) {
  MlpParts parts;
  parts.activation = activation;
  return make_patient(mlp(setup, parts), setup);
}

/// One sample's hidden units are all zero.
Patient with_zero_sample(const Unary& activation, const Setup& setup) {
  MlpParts parts;
  parts.activation = activation;
  const Model model = mlp(setup, parts);
  model.input("features").select(0, kZeroSample).zero_();
  return make_patient(model, setup);
}

// 1e-8 is zero in fp16.
Patient rms_by_rsqrt(const Setup& setup) {
  return with_zero_sample(
      [](const Tensor& x) { return x * (x.pow(2).mean(-1, true) + 1e-8).rsqrt(); }, setup);
}

Patient cosine_of_zero_vector(const Setup& setup) {
  return with_zero_sample([](const Tensor& x) { return x / x.norm(2, {-1}, true); }, setup);
}

Patient layer_norm_without_eps(const Setup& setup) {
  return with_zero_sample([](const Tensor& x) { return at::layer_norm(x, {32}, {}, {}, 0.0); },
                          setup);
}

// As int8 quantization does it, with a gradient that goes straight through.
Patient quantized_zero_row(const Setup& setup) {
  return with_zero_sample(
      [](const Tensor& x) {
        const Tensor values = x.detach(), step = values.abs().amax(-1, true) / 127;
        return x + ((values / step).round() * step - values);
      },
      setup);
}

Patient range_of_constant(const Setup& setup) {
  MlpParts parts;
  parts.input = [](const Tensor& x) {
    const Tensor least = x.amin(-1, true);
    return (x - least) / (x.amax(-1, true) - least);
  };
  const Model model = mlp(setup, parts);
  model.input("features").select(0, 6).fill_(0.5);
  return make_patient(model, setup);
}

// A micro-batch of one sample has no spread.
Patient deviation_of_one(const Setup& setup) {
  return with_activation(
      [](const Tensor& x) { return (x - x.mean(0, true)) / (x.std(0, true, true) + 1e-3); }, setup);
}

// The row of the one sample is -Inf throughout, and so is its maximum.
Patient log_sum_of_masked_row(const Setup& setup) {
  return with_activation(
      [](const Tensor& hidden) {
        Tensor is_masked = at::zeros({hidden.size(0), 1}, at::kBool);
        is_masked.select(0, kZeroSample).fill_(true);
        const Tensor x = hidden.masked_fill(is_masked, -std::numeric_limits<double>::infinity());
        const Tensor largest = x.amax(-1, true).detach();
        return hidden + ((x - largest).exp().sum(-1, true).log() + largest);
      },
      setup);
}

// E[x^2] - E[x]^2 of numbers that are alike.
Patient negative_variance(const Setup& setup) {
  return with_activation(
      [](const Tensor& hidden) {
        const Tensor x = hidden * 0.1 + 30, mean = x.mean(-1, true);
        const Tensor variance = x.pow(2).mean(-1, true) - mean.pow(2);
        return (x - mean) / (variance.sqrt() + 1e-3);
      },
      setup);
}

Patient rms_of_large(const Setup& setup) {
  return with_activation(
      [](const Tensor& hidden) {
        const Tensor x = hidden * 300 + 300;
        return x * (x.square().mean(-1, true) + 1e-5).rsqrt();
      },
      setup);
}

Patient batch_variance_overflow(const Setup& setup) {
  ConvNetParts parts;
  parts.norm = [](const Tensor& x) {
    const Tensor centered = x - x.mean({0, 2, 3}, true);
    const Tensor variance = (centered * centered).mean({0, 2, 3}, true);
    return centered / (variance + 1e-5).sqrt() + 0.5;
  };
  const Model model = conv_net(setup, parts);
  model.input("images").mul_(400);
  return make_patient(model, setup);
}

}  // namespace

std::vector<Fault> held_out_norms() {
  std::vector<Fault> faults;
  const auto expected = [](std::vector<std::string> ops, std::string module,
                           std::vector<Cause> causes, std::optional<int64_t> sample) {
    return Expected{.ops = std::move(ops),
                    .module = std::move(module),
                    .causes = std::move(causes),
                    .sample = sample};
  };
  const std::vector<Cause> zero_by_zero = {Cause::kInvalid, Cause::kDivisionByZero};

  faults.push_back(fault("rms_by_rsqrt", rms_by_rsqrt, half(),
                         expected({"aten::rsqrt"}, "act", {Cause::kDivisionByZero}, kZeroSample)));
  for (const Setup& setup : {half(), bfloat16(), autocast_half()})
    faults.push_back(fault("cosine_of_zero_vector", cosine_of_zero_vector, setup,
                           expected({"aten::div"}, "act", zero_by_zero, kZeroSample)));
  for (const Setup& setup : {half(), autocast_half()})
    faults.push_back(
        fault("layer_norm_without_eps", layer_norm_without_eps, setup,
              expected({"aten::layer_norm", "aten::native_layer_norm"}, "act", zero_by_zero, {})));
  faults.push_back(fault("quantized_zero_row", quantized_zero_row, bfloat16(),
                         expected({"aten::div"}, "act", zero_by_zero, kZeroSample)));
  faults.push_back(fault("range_of_constant", range_of_constant, half(),
                         expected({"aten::div"}, "input", zero_by_zero, 6)));
  faults.push_back(
      fault("deviation_of_one", deviation_of_one, with_micro_batches(half(), 8),
            expected({"aten::std"}, "act",
                     {Cause::kEmptyReduction, Cause::kInvalid, Cause::kDivisionByZero}, {})));
  for (const Setup& setup : {half(), bfloat16()})
    faults.push_back(
        fault("log_sum_of_masked_row", log_sum_of_masked_row, setup,
              expected({"aten::sub"}, "act", {Cause::kInvalid, Cause::kMaskedRow}, kZeroSample)));
  faults.push_back(fault("negative_variance", negative_variance, half(),
                         expected({"aten::sqrt"}, "act", {Cause::kInvalid}, {})));

  Expected swallowed =
      expected({"aten::square", "aten::pow", "aten::mul"}, "act", {Cause::kOverflow}, {});
  swallowed.is_swallowed = true;
  swallowed.is_proved = true;
  faults.push_back(wrong_loss("rms_of_large", rms_of_large, half(), swallowed));
  swallowed.module = "bn";
  faults.push_back(
      wrong_loss("batch_variance_overflow", batch_variance_overflow, half(), swallowed));
  faults.push_back(wrong_loss("batch_variance_overflow", batch_variance_overflow,
                              with_micro_batches(half(), 2), swallowed));
  return faults;
}

}  // namespace mezzo::numerics::faults
