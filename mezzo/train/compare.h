#pragma once

#include <atomic>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "mezzo/report/capacity.h"
#include "mezzo/report/comparison.h"
#include "mezzo/train/run_config.h"

namespace mezzo::train {

/// What `mezzo compare` is to do.
struct CompareConfig {
  RunConfig run;  // every run's, but for precision, seed and out
  std::vector<std::string> modes;
  int64_t seeds = 1;            // run.seed and those that follow
  std::filesystem::path out;    // folder of the comparison
  bool is_interleaved = true;   // false: one run after another, for models that do not fit together
  std::filesystem::path peers;  // a JSON file with other programs' figures; empty: none
  int64_t memory = 0;           // budget in bytes, to find out what fits into it; 0: not asked
};

/// Throws UsageError for modes that are unknown, named twice or not possible for the model (fp8),
/// and for fewer than one seed.
void check_compare(const CompareConfig& config);

/// Reads what an earlier compare() wrote into `out`. Throws UsageError if there is nothing.
CompareConfig load_compare(const std::filesystem::path& out);

struct CompareResult {
  report::Comparison comparison;
  std::optional<report::Capacity> capacity;
  bool is_complete = false;  // false: it was stopped
};

/// Trains the same model on the same batches in every mode, each run in a process of its own, block
/// by block in turn; writes each run's folder, compare.json and report.html. What an earlier call
/// has finished is kept, and what it began goes on. `say` gets a line now and then. Throws
/// UsageError if config.out holds another comparison, or files of something else, Error if another
/// process is at work on it.
CompareResult compare(const CompareConfig& config,
                      const std::function<void(const std::string& line)>& say,
                      const std::atomic<bool>& stop);

}  // namespace mezzo::train
