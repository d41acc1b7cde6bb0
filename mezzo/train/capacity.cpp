#include "mezzo/train/capacity.h"

#include <algorithm>
#include <cmath>
#include <csignal>
#include <optional>

#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <sys/wait.h>

#include "mezzo/amp/precision.h"
#include "mezzo/base/check.h"
#include "mezzo/models/model_config.h"
#include "mezzo/train/child_process.h"
#include "mezzo/train/step_size.h"

namespace mezzo::train {
namespace {

constexpr const char* kWhere = "compare";
constexpr int64_t kMostSequences = 1 << 20;
constexpr int kMostTries = 12;

/// A try's answer, the last line that it wrote.
struct Answer {
  std::string line;
  bool is_killed = false;  // as the system does for memory
};

Answer answer_to(const std::vector<std::string>& arguments) {
  ChildProcess process(arguments, /*errors=*/"", ChildProcess::Group::kParents);
  Answer answer;
  while (std::optional<std::string> line = process.read_line()) answer.line = std::move(*line);
  const int status = process.wait();
  answer.is_killed = WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
  return answer;
}

/// Tries steps of a run's in a mode, as long as nobody says stop.
class Tries {
 public:
  Tries(const RunConfig& run, const std::string& mode, int64_t budget,
        const std::atomic<bool>& stop)
      : run_(in_precision(run, mode)), budget_(budget), stop_(stop) {}

  /// The peak of a step's tensors, or nothing if that is more than the budget.
  std::optional<int64_t> peak_of(const std::string& model, int64_t batch) const {
    if (stop_) return std::nullopt;
    const Answer answer = answer_to(arguments(model, batch));
    if (answer.is_killed || stop_) return std::nullopt;
    const auto json = nlohmann::json::parse(answer.line, nullptr, /*allow_exceptions=*/false);
    MEZZO_CHECK(json.is_object() && json.contains("fits"), kWhere,
                "a step of {} in {} cannot be measured: {}", model, run_.precision, answer.line);
    if (!json.at("fits").get<bool>()) return std::nullopt;
    return json.at("peak_tensor_bytes").get<int64_t>();
  }

  double least_bytes_of(const std::string& model) const {
    const models::ModelConfig config = models::model_preset(model);
    return least_bytes({config, 1, config.context, run_.accumulate, run_.release_gradients},
                       precision_mode(run_.precision));
  }

 private:
  std::vector<std::string> arguments(const std::string& model, int64_t batch) const {
    std::vector<std::string> words = {
        "bench",
        "step",
        "--json",
        "--steps=1",
        fmt::format("--memory={}", budget_),
        fmt::format("--model={}", model),
        fmt::format("--precision={}", run_.precision),
        fmt::format("--batch={}", batch),
        fmt::format("--length={}", models::model_preset(model).context),
        fmt::format("--accumulate={}", run_.accumulate),
        fmt::format("--recompute={}", run_.recompute),
        fmt::format("--fp8-scaling={}", run_.fp8_scaling),
        fmt::format("--threads={}", run_.threads)};
    if (run_.release_gradients) words.push_back("--release-gradients");
    return words;
  }

  const RunConfig run_;
  const int64_t budget_;
  const std::atomic<bool>& stop_;
};

void set_largest_model(report::Capacity::Row& row, const Tries& tries, models::Family family,
                       int64_t budget) {
  std::vector<std::string> names = models::model_preset_names();
  std::reverse(names.begin(), names.end());
  for (const std::string& name : names) {
    if (models::model_preset(name).family != family) continue;
    if (tries.least_bytes_of(name) > static_cast<double>(budget)) continue;
    const std::optional<int64_t> peak = tries.peak_of(name, 1);
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
  MEZZO_CHECK_USAGE(end != copy.c_str() && shift >= 0 && bytes >= 1 && bytes < 0x1p62, "memory",
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

std::optional<report::Capacity> find_capacity(const std::vector<std::string>& modes,
                                              const RunConfig& run, int64_t budget,
                                              const std::function<void(const std::string&)>& say,
                                              const std::atomic<bool>& stop) {
  report::Capacity capacity;
  capacity.budget_bytes = budget;
  for (const std::string& mode : modes) {
    report::Capacity::Row& row = capacity.rows.emplace_back();
    row.mode = mode;
    const Tries tries(run, mode, budget, stop);
    const LargestFit batch = largest_that_fits(budget, kMostSequences, [&](int64_t number) {
      const std::optional<int64_t> peak = tries.peak_of(run.model, number);
      if (stop) return peak;
      say(fmt::format(
          "{} of {} sequences in {}: {}", run.model, number, mode,
          peak ? fmt::format("{:.2f} GiB", static_cast<double>(*peak) / 0x1p30) : "does not fit"));
      return peak;
    });
    row.largest_batch = batch.number;
    row.batch_peak_bytes = batch.peak_bytes;
    set_largest_model(row, tries, models::model_preset(run.model).family, budget);
    if (stop) return std::nullopt;
    say(fmt::format("largest preset in {}: {}", mode,
                    row.largest_model.empty() ? "none" : row.largest_model));
  }
  return capacity;
}

}  // namespace mezzo::train
