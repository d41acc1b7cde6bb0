#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <vector>

#include "mezzo/report/step_record.h"

namespace mezzo::report {

inline constexpr const char* kMetricsFile = "metrics.jsonl";
inline constexpr const char* kSummaryFile = "summary.json";

/// What the files of a run's folder say of it, be it over, under way or broken off.
struct RunFiles {
  std::vector<StepRecord> steps;
  std::vector<EvalRecord> evals;
  std::vector<GradientRecord> gradients;
  std::optional<Summary> summary;  // absent: the run is not over
};

/// Reads metrics.jsonl and summary.json; what is not there yet is empty, and a last line that is
/// being written is passed over. Throws Error, naming the file and the line or key, for files that
/// are something else.
RunFiles read_run_files(const std::filesystem::path& folder);

}  // namespace mezzo::report
