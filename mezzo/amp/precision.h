#pragma once

#include <optional>
#include <string_view>
#include <vector>

#include <c10/core/ScalarType.h>

namespace mezzo {

/// What a precision mode means, in one place: every room that asks "which dtype" asks this table.
struct PrecisionMode {
  /// As the command line has it: "amp-fp16".
  std::string_view name;
  /// dtype of parameters, gradients and optimizer state.
  at::ScalarType weights;
  /// The 16-bit type that an Autocast region runs in; none: no region.
  std::optional<at::ScalarType> autocast = std::nullopt;
  /// Dynamic loss scaling by default.
  bool scales_loss = false;
  /// Matrices are kept as their bf16 value, which products use, and a 16-bit remainder: together
  /// exactly `weights`, fp32.
  bool splits_weights = false;
  /// Of the optimizer's moments; 8: block by block, but for tables, vectors and small tensors.
  int moment_bits = 32;
  /// The linear layers of a model's inner blocks multiply in FP8 (mezzo/kernels/fp8/linear.h);
  /// their ends stay as autocast has them.
  bool fp8_products = false;
  /// One line for a person.
  std::string_view meaning;

  /// The dtype in which matrix products run, but for those in FP8.
  at::ScalarType compute() const { return autocast.value_or(weights); }
};

/// fp32, amp-fp16, amp-bf16, lean, fp8, pure-fp16, pure-bf16, in this order.
const std::vector<PrecisionMode>& precision_modes();

/// Throws UsageError for an unknown name, naming the known ones.
const PrecisionMode& precision_mode(std::string_view name);

}  // namespace mezzo
