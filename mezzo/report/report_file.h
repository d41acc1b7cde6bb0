#pragma once

#include <chrono>
#include <filesystem>
#include <string>
#include <vector>

#include "mezzo/report/comparison_json.h"
#include "mezzo/report/sink.h"

namespace mezzo::report {

/// report.html of a single run, beside its metrics.jsonl: written every ten seconds, or less often
/// where writing takes long, and when the run ends. A resumed run shows its earlier steps too. Of a
/// long run it has a few thousand steps, evenly spaced, and those that were skipped.
class ReportFile : public Sink {
 public:
  /// folder: the run's. facts: machine, versions, config; the rest is set here.
  ReportFile(std::filesystem::path folder, ComparisonFacts facts);
  /// Of a run that ends by an exception it says so.
  ~ReportFile() override;

  std::string name() const override { return "report.html"; }
  void on_start(const RunInfo& info) override;
  void on_step(const StepRecord& record) override;
  void on_eval(const EvalRecord& record) override;
  void on_gradients(const GradientRecord& record) override;
  /// Throws Error if the file cannot be written, as the others do.
  void on_end(const Summary& summary) override;

 private:
  void write_if_due();
  Comparison figures(const std::vector<ComparedRun>& shown) const;
  void write(const std::string& status);

  std::filesystem::path folder_;
  ComparisonFacts facts_;
  ComparisonPlan plan_;
  ComparedRun run_;
  int64_t start_step_ = 0;
  std::chrono::steady_clock::time_point due_;  // written anew
};

}  // namespace mezzo::report
