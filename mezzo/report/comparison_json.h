#pragma once

#include <string>

#include "mezzo/report/comparison.h"

namespace mezzo::report {

/// What a comparison's file says beside its runs and its table.
struct ComparisonFacts {
  std::string kind = "compare";  // "train": a single run
  std::string status;            // "running", "done", "interrupted"; a run's: "diverged", "failed"
  std::string started;           // ISO 8601, UTC
  std::vector<std::pair<std::string, std::string>> machine, versions, config;
  std::string model;
  int64_t parameters = 0;
  int64_t tokens_per_step = 0;
  bool is_interleaved = true;
  std::string capacity;  // capacity_json's; empty: none
  std::string peers;     // a JSON array of figures of other programs; empty: none
};

/// compare.json (docs/compare.md has the keys): the table, and every sample that it is made of.
std::string comparison_json(const ComparisonFacts& facts, const ComparisonPlan& plan,
                            const std::vector<ComparedRun>& runs, const Comparison& comparison);

}  // namespace mezzo::report
