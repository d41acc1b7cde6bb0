#include "mezzo/train/fp8.h"

#include <algorithm>

#include <fmt/ranges.h>  // fmt::join

#include "mezzo/base/check.h"
#include "mezzo/kernels/fp8/linear.h"
#include "mezzo/models/language_model.h"

namespace mezzo::train {

const std::vector<std::string>& fp8_scaling_names() {
  static const std::vector<std::string> names = {"current", "delayed"};
  return names;
}

std::optional<kernels::Fp8Scaling> fp8_scaling_of(const PrecisionMode& mode,
                                                  std::string_view scaling) {
  const std::vector<std::string>& names = fp8_scaling_names();
  MEZZO_CHECK_USAGE(std::find(names.begin(), names.end(), scaling) != names.end(), "fp8",
                    "fp8-scaling must be {}, but is '{}'", fmt::join(names, " or "), scaling);
  const bool is_delayed = scaling == "delayed";
  MEZZO_CHECK_USAGE(
      mode.fp8_products || !is_delayed, "fp8",
      "fp8-scaling must be current in {}, which multiplies nothing in FP8, but is {}. "
      "Hint: --precision fp8",
      mode.name, scaling);
  if (!mode.fp8_products) return std::nullopt;
  return kernels::Fp8Scaling{.is_delayed = is_delayed};
}

std::optional<kernels::Fp8Scaling> fp8_scaling_for(const PrecisionMode& mode,
                                                   std::string_view scaling,
                                                   const models::ModelConfig& shape, int64_t rows,
                                                   at::Device device) {
  const std::optional<kernels::Fp8Scaling> found = fp8_scaling_of(mode, scaling);
  if (!found.has_value()) return found;
  const std::string refusal = models::fp8_refusal(shape, device);
  MEZZO_CHECK_USAGE(refusal.empty(), "fp8", "{}", refusal);
  MEZZO_CHECK_USAGE(rows % kernels::kFp8Multiple == 0, "fp8",
                    "FP8 products take a batch of rows (sequences x their length) in multiples of "
                    "{}, but it has {}. Hint: another --batch",
                    kernels::kFp8Multiple, rows);
  return found;
}

std::string fp8_note(const PrecisionMode& mode, at::Device device) {
  if (!mode.fp8_products || !device.is_cpu()) return "";
  return "FP8 products are emulated on a CPU: this shows the accuracy of fp8, and not its speed";
}

}  // namespace mezzo::train
