#include "mezzo/amp/precision.h"

#include "mezzo/base/check.h"

namespace mezzo {

const std::vector<PrecisionMode>& precision_modes() {
  static const std::vector<PrecisionMode> modes = {
      {"fp32", at::kFloat, std::nullopt, false, false, 32, false,
       "everything in fp32: the yardstick"},
      {"amp-fp16", at::kFloat, at::kHalf, true, false, 32, false,
       "fp32 weights, fp16 products, the loss scaled"},
      {"amp-bf16", at::kFloat, at::kBFloat16, false, true, 32, false,
       "fp32 weights in two halves, bf16 products, no scaling needed"},
      {"lean", at::kFloat, at::kBFloat16, false, true, 8, false,
       "as amp-bf16, with moments of 8 bits: for the largest model that fits"},
      {"fp8", at::kFloat, at::kBFloat16, false, true, 8, true,
       "as lean, FP8 products in all blocks but the first and the last: for GPUs that have them"},
      {"pure-fp16", at::kHalf, std::nullopt, false, false, 16, false,
       "all in fp16, nothing protected: fast where it is fast, and fragile"},
      {"pure-bf16", at::kBFloat16, std::nullopt, false, false, 16, false,
       "all in bf16: half the memory, small updates get lost"},
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
