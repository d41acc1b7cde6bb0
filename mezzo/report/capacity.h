#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace mezzo::report {

/// What of a model fits into a budget of memory, mode by mode.
struct Capacity {
  struct Row {
    std::string mode;
    int64_t largest_batch = 0;  // sequences; 0: not even one fits
    int64_t batch_peak_bytes = 0;
    std::string largest_model;  // at batch 1; empty: none fits
    int64_t model_peak_bytes = 0;
  };
  int64_t budget_bytes = 0;
  std::vector<Row> rows;
};

/// As text, a line a mode, for a terminal.
std::string capacity_text(const Capacity& capacity);

/// As a JSON object: budget_bytes, and rows with the fields above.
std::string capacity_json(const Capacity& capacity);
/// Its inverse. Throws Error for text that is something else.
Capacity capacity_of(const std::string& json);

}  // namespace mezzo::report
