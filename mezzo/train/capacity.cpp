#include "mezzo/train/capacity.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <optional>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "mezzo/amp/precision.h"
#include "mezzo/base/check.h"
#include "mezzo/models/gpt2_config.h"

namespace mezzo::train {
namespace {

constexpr const char* kWhere = "compare";
constexpr int64_t kMostSequences = 1 << 20;
constexpr int kMostTries = 12;

/// What a process of this program's own writes to its stdout.
std::string output_of(const std::string& arguments) {
  const std::string command = fmt::format(
      "'{}' {} 2>/dev/null", std::filesystem::read_symlink("/proc/self/exe").string(), arguments);
  FILE* pipe = ::popen(command.c_str(), "r");
  MEZZO_CHECK(pipe != nullptr, kWhere, "cannot start a process to measure in");
  std::string text;
  std::array<char, 4096> part{};
  while (std::fgets(part.data(), part.size(), pipe) != nullptr) text += part.data();
  ::pclose(pipe);
  return text;
}

/// The peak of a step's tensors, or nothing if that is more than the budget. A process that dies
/// instead, as one that the system kills for its memory, does not fit either.
std::optional<int64_t> peak_of(const std::string& mode, const std::string& model, int64_t batch,
                               int64_t budget) {
  const std::string text = output_of(
      fmt::format("bench step --model {} --precision {} --batch {} --steps 1 --memory {} --json",
                  model, mode, batch, budget));
  const auto json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object() || !json.value("fits", false)) return std::nullopt;
  return json.at("peak_tensor_bytes").get<int64_t>();
}

// Weights, gradients and two moments: what no step can do without.
int64_t least_bytes(const std::string& model, const std::string& mode) {
  const int64_t number = models::parameter_count(models::gpt2_preset(model));
  return 4 * number * (precision_mode(mode).weights == at::kFloat ? 4 : 2);
}

void set_largest_model(report::Capacity::Row& row, int64_t budget) {
  std::vector<std::string> names = models::gpt2_preset_names();
  std::reverse(names.begin(), names.end());
  for (const std::string& name : names) {
    if (least_bytes(name, row.mode) > budget) continue;
    const std::optional<int64_t> peak = peak_of(row.mode, name, 1, budget);
    if (!peak) continue;
    row.largest_model = name;
    row.model_peak_bytes = *peak;
    return;
  }
}

}  // namespace

int64_t bytes_of(std::string_view text) {
  const std::string copy(text);
  char* end = nullptr;
  const double number = std::strtod(copy.c_str(), &end);
  std::string unit(end);
  unit.erase(0, unit.find_first_not_of(' ') == std::string::npos ? unit.size()
                                                                 : unit.find_first_not_of(' '));
  int shift = -1;
  for (const auto& [name, bits] :
       {std::pair{"", 0}, {"B", 0}, {"K", 10}, {"M", 20}, {"G", 30}, {"T", 40}}) {
    const std::string letter = name;
    if (unit == letter || (bits > 0 && (unit == letter + "iB" || unit == letter + "B")))
      shift = bits;
  }
  const double bytes = std::ldexp(number, std::max(shift, 0));
  MEZZO_CHECK_USAGE(end != copy.c_str() && shift >= 0 && bytes >= 1 && bytes < 0x1p62, kWhere,
                    "--memory must be an amount such as 16GiB or 800MiB, but is '{}'", text);
  return static_cast<int64_t>(bytes);
}

LargestFit largest_that_fits(int64_t budget, int64_t limit,
                             const std::function<std::optional<int64_t>(int64_t)>& peak_of_number) {
  LargestFit best;
  int64_t too_many = limit + 1, next = 1;
  std::optional<LargestFit> before;  // to see how the peak grows
  for (int tries = 0; tries < kMostTries && next < too_many; ++tries) {
    const std::optional<int64_t> peak = peak_of_number(next);
    if (peak) {
      before = best.number > 0 ? std::optional(best) : std::nullopt;
      best = {next, *peak};
    } else {
      too_many = next;
    }
    if (best.number == 0 || too_many - best.number <= std::max<int64_t>(1, best.number / 32)) break;
    next = 2 * best.number;
    if (before && best.peak_bytes > before->peak_bytes) {
      const double each = static_cast<double>(best.peak_bytes - before->peak_bytes) /
                          static_cast<double>(best.number - before->number);
      const auto more = static_cast<int64_t>(static_cast<double>(budget - best.peak_bytes) / each);
      next = best.number + std::max<int64_t>(more, best.number / 32 + 1);
    }
    // What has been seen not to fit bounds it; half way between, where the line leads past.
    if (next >= too_many) next = std::min(too_many - 1, (best.number + too_many) / 2);
    if (next <= best.number) break;
  }
  return best;
}

report::Capacity find_capacity(const std::vector<std::string>& modes, const std::string& model,
                               int64_t budget, const std::function<void(const std::string&)>& say) {
  report::Capacity capacity;
  capacity.budget_bytes = budget;
  for (const std::string& mode : modes) {
    report::Capacity::Row& row = capacity.rows.emplace_back();
    row.mode = mode;
    const LargestFit batch = largest_that_fits(budget, kMostSequences, [&](int64_t number) {
      const std::optional<int64_t> peak = peak_of(mode, model, number, budget);
      say(fmt::format(
          "{} of {} sequences in {}: {}", model, number, mode,
          peak ? fmt::format("{:.2f} GiB", static_cast<double>(*peak) / 0x1p30) : "does not fit"));
      return peak;
    });
    row.largest_batch = batch.number;
    row.batch_peak_bytes = batch.peak_bytes;
    set_largest_model(row, budget);
    say(fmt::format("largest preset in {}: {}", mode,
                    row.largest_model.empty() ? "none" : row.largest_model));
  }
  return capacity;
}

}  // namespace mezzo::train
