#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "mezzo/report/appended_file.h"
#include "mezzo/report/sink.h"

namespace mezzo::report {

/// metrics.jsonl: one JSON object a line (docs/run-folder.md): a step, an evaluation, the
/// magnitudes of a step's gradients, or its health.
/// Numbers that are not finite are the strings "nan", "inf", "-inf". Each row is handed to the
/// system at once, so a run that is killed loses none; one that finds no room on a full disk is
/// written later.
class MetricsFile : public Sink {
 public:
  /// Opens the file to append to it. The first new row takes the place of those after `start_step`,
  /// as a run killed some steps after its checkpoint does those steps again, and of a last line cut
  /// short. Until then the file stays as it is: the run may end before it has taken a step.
  /// Throws Error, naming the path and the line, for a file that is something else, and if the file
  /// cannot be written.
  MetricsFile(std::filesystem::path path, int64_t start_step);

  std::string name() const override { return path_.filename().string(); }
  /// These throw Error if the row cannot be written now (disk full).
  void on_step(const StepRecord& record) override;
  void on_eval(const EvalRecord& record) override;
  void on_gradients(const GradientRecord& record) override;
  void on_health(const HealthRecord& record) override;
  void on_end(const Summary& summary) override;

 private:
  void write_row(const std::string& json);

  std::filesystem::path path_;
  int64_t start_step_;
  bool has_begun_ = false;
  AppendedFile file_;
};

}  // namespace mezzo::report
