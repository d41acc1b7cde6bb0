#include "mezzo/train/rope_scaling.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include <fmt/format.h>

#include "mezzo/train/run_options.h"

namespace mezzo::train {
namespace {

constexpr const char* kNone = "none";
constexpr double kMaxContext = 1 << 30;

/// The numbers between the commas; nothing where one is none.
std::vector<double> numbers_in(const std::string& text) {
  std::vector<double> numbers;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    const std::optional<double> number = number_of(text.substr(begin, end - begin));
    if (!number) return {};
    numbers.push_back(*number);
    begin = end + 1;
  }
  return numbers;
}

}  // namespace

std::optional<std::optional<kernels::Llama3Scaling>> rope_scaling_of(const std::string& text) {
  if (text == kNone) return std::optional<kernels::Llama3Scaling>();
  const std::vector<double> numbers = numbers_in(text);
  const bool are_sizes = std::all_of(numbers.begin(), numbers.end(),
                                     [](double n) { return n > 0 && std::isfinite(n); });
  if (numbers.size() != 4 || !are_sizes) return std::nullopt;
  const double context = numbers[3];
  if (numbers[2] <= numbers[1] || context != std::floor(context) || context > kMaxContext)
    return std::nullopt;
  return kernels::Llama3Scaling{.factor = numbers[0],
                                .low_freq_factor = numbers[1],
                                .high_freq_factor = numbers[2],
                                .original_context = static_cast<int64_t>(context)};
}

std::string rope_scaling_text(const std::optional<kernels::Llama3Scaling>& scaling) {
  if (!scaling) return kNone;
  return fmt::format("{},{},{},{}", scaling->factor, scaling->low_freq_factor,
                     scaling->high_freq_factor, scaling->original_context);
}

}  // namespace mezzo::train
