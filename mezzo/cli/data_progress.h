#pragma once

#include <string>
#include <string_view>

namespace mezzo::cli {

/// Shows on stderr how far packing a corpus is: one line redrawn in place on a terminal, else one
/// line a phase.
class DataProgress {
 public:
  void operator()(std::string_view phase, double fraction);
  /// Ends the line.
  void finish();

 private:
  std::string phase_;
  int percent_ = -1;
};

}  // namespace mezzo::cli
