#include "mezzo/amp/precision.h"

#include "mezzo/base/check.h"

namespace mezzo {

const std::vector<PrecisionMode>& precision_modes() {
  static const std::vector<PrecisionMode> modes = {
      {.name = "fp32", .weights = at::kFloat, .meaning = "everything in fp32: the yardstick"},
      {.name = "amp-fp16",
       .weights = at::kFloat,
       .autocast = at::kHalf,
       .scales_loss = true,
       .meaning = "fp32 weights, fp16 products, the loss scaled"},
      {.name = "amp-bf16",
       .weights = at::kFloat,
       .autocast = at::kBFloat16,
       .splits_weights = true,
       .meaning = "fp32 weights in two halves, bf16 products, no scaling needed"},
      {.name = "lean",
       .weights = at::kFloat,
       .autocast = at::kBFloat16,
       .splits_weights = true,
       .moment_bits = 8,
       .meaning = "as amp-bf16, with moments of 8 bits: for the largest model that fits"},
      {.name = "fp8",
       .weights = at::kFloat,
       .autocast = at::kBFloat16,
       .splits_weights = true,
       .moment_bits = 8,
       .fp8_products = true,
       .meaning = "as lean, FP8 products in all blocks but the first and the last: for GPUs that "
                  "have them"},
      {.name = "pure-fp16",
       .weights = at::kHalf,
       .moment_bits = 16,
       .meaning = "all in fp16, nothing protected: fast where it is fast, and fragile"},
      {.name = "pure-bf16",
       .weights = at::kBFloat16,
       .moment_bits = 16,
       .meaning = "all in bf16: half the memory, small updates get lost"},
  };
  return modes;
}

const PrecisionMode& precision_mode(std::string_view name) {
  std::string known;
  for (const PrecisionMode& mode : precision_modes()) {
    if (mode.name == name) return mode;
    known += (known.empty() ? "" : ", ") + std::string(mode.name);
  }
  detail::fail<UsageError>("precision", "must be one of {}, but is '{}'", known, name);
}

}  // namespace mezzo
