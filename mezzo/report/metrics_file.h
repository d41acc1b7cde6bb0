#pragma once

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
  /// Opens the file to append to it. Rows after `start_step` are dropped first: a run killed some
  /// steps after its checkpoint does those steps again. A last line cut short is dropped too.
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
  AppendedFile file_;
};

}  // namespace mezzo::report
