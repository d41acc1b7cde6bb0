#pragma once

#include <string>
#include <string_view>

#include "mezzo/train/run.h"

namespace mezzo::cli {

/// Shows on stderr how far packing a corpus is: one line redrawn in place on a terminal, else one
/// line a phase. After Ctrl-C it throws Interrupted.
class DataProgress {
 public:
  DataProgress();   // listens to Ctrl-C from here on
  ~DataProgress();  // ends the line
  void operator()(std::string_view phase, double fraction);

 private:
  std::string phase_;
  int percent_ = -1;
};

/// train::open_data with its progress, and a word of files that are no text.
train::RunData open_data(const train::RunConfig& config);

}  // namespace mezzo::cli
