#pragma once

#include <cstdint>
#include <tuple>
#include <vector>

#include <torch/optim/optimizer.h>

#include "mezzo/optim/fused_optimizer.h"  // PlaceOfParam

namespace mezzo::optim {

/// What CompactAdamW is told; of each parameter group. Chain the setters, as with libtorch's
/// options: CompactAdamWOptions(3e-4).weight_decay(0.1).moment_bits(8).
struct CompactAdamWOptions : public torch::optim::OptimizerCloneableOptions<CompactAdamWOptions> {
  using Betas = std::tuple<double, double>;
  CompactAdamWOptions(double lr = 1e-3);  // NOLINT(google-explicit-constructor): as libtorch's
  TORCH_ARG(double, lr) = 1e-3;
  TORCH_ARG(Betas, betas) = std::make_tuple(0.9, 0.999);
  TORCH_ARG(double, eps) = 1e-8;
  TORCH_ARG(double, weight_decay) = 1e-2;
  /// 32, or 8: then tensors of 2 dimensions and more and of 4096 elements and more have moments of
  /// 8 bits each, the others of 32. Give embeddings a group of 32: their rows are updated seldom,
  /// with large gradients.
  TORCH_ARG(int64_t, moment_bits) = 32;
  /// fp32 parameters of 2 dimensions and more become bf16, in place, and the optimizer keeps what
  /// rounding took away: it steps the fp32 numbers, exactly.
  TORCH_ARG(bool, split_weights) = false;
  /// Parameters that are 16 bits wide and were not split are stepped too, each step rounded to 16
  /// bits: small updates are lost. Off: they are refused.
  TORCH_ARG(bool, round_weights) = false;

 public:
  void serialize(torch::serialize::InputArchive& archive) override;
  void serialize(torch::serialize::OutputArchive& archive) const override;
  double get_lr() const override { return lr(); }
  void set_lr(const double value) override { lr(value); }
};

/// What CompactAdamW remembers of one parameter. An undefined tensor is not there.
struct CompactAdamWState : public torch::optim::OptimizerCloneableParamState<CompactAdamWState> {
  at::Tensor step;              ///< 0-dim fp32 on the parameter's device: counts steps not skipped
  at::Tensor exp_avg;           ///< first moment, shape of the parameter: fp32, or int8 codes
  at::Tensor exp_avg_sq;        ///< second moment, likewise: fp32, or uint8 codes
  at::Tensor exp_avg_scale;     ///< fp32, one for each 128 codes
  at::Tensor exp_avg_sq_scale;  ///< likewise
  at::Tensor remainder;  ///< int16, shape of the parameter: the lower half of its fp32 number

  /// All that are there.
  std::vector<at::Tensor> tensors() const;
  /// Splits the parameter, if the options say so and it is fp32, and makes, as zeros, what is not
  /// there yet. Throws Error for a parameter that is neither fp32 nor of 16 bits, and for one of 16
  /// bits that neither was split nor is to be rounded.
  void complete(const at::Tensor& param, const CompactAdamWOptions& options);
  /// torch::load's and torch::save's.
  /// @{
  void serialize(torch::serialize::InputArchive& archive) override;
  void serialize(torch::serialize::OutputArchive& archive) const override;
  /// @}
  /// Throws Error for what was read for a parameter unlike this one.
  void check_read(const detail::PlaceOfParam& place, const at::Tensor& param) const;

 private:
  void split(const at::Tensor& param);
  void make_moments(const at::Tensor& param, bool is_8bit);
};

}  // namespace mezzo::optim
