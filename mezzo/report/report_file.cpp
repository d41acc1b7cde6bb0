#include "mezzo/report/report_file.h"

#include <algorithm>
#include <exception>
#include <utility>

#include "mezzo/base/atomic_file.h"
#include "mezzo/report/page.h"
#include "mezzo/report/summary_file.h"

namespace mezzo::report {
namespace {

using Clock = std::chrono::steady_clock;

constexpr const char* kRunning = "running";
constexpr auto kEvery = std::chrono::seconds(10);
constexpr int kMostOfTime = 50;  // writing takes no more than a fiftieth of the run
constexpr size_t kMostSteps = 4000;
constexpr int64_t kBlock = 10;  // a single run takes turns with nobody

std::vector<StepRecord> thinned(const std::vector<StepRecord>& steps) {
  const size_t spacing = (steps.size() + kMostSteps - 1) / kMostSteps;
  std::vector<StepRecord> shown;
  for (size_t i = 0; i < steps.size(); ++i) {
    const bool is_end = i == 0 || i + 1 == steps.size();
    if (i % spacing == 0 || is_end || steps[i].skipped) shown.push_back(steps[i]);
  }
  return shown;
}

}  // namespace

ReportFile::ReportFile(std::filesystem::path folder, ComparisonFacts facts)
    : folder_(std::move(folder)), facts_(std::move(facts)) {}

ReportFile::~ReportFile() {
  const bool is_under_way = !plan_.modes.empty() && !run_.files.summary;
  if (!is_under_way || std::uncaught_exceptions() == 0) return;
  try {
    write("failed");
  } catch (const std::exception&) {
    // as the run did
  }
}

void ReportFile::on_start(const RunInfo& info) {
  facts_.kind = "train";
  facts_.model = info.model;
  facts_.parameters = info.parameters;
  facts_.tokens_per_step = info.tokens_per_step;
  facts_.config = info.settings;
  plan_ = {.modes = {info.precision},
           .baseline = info.precision,
           .seeds = {0},
           .steps = info.steps_total,
           .block = kBlock};
  run_.mode = info.precision;
  if (info.start_step > 0) run_.files = read_run_files(folder_);
  // What came after the checkpoint is still there.
  const auto is_later = [&](const auto& record) { return record.step > info.start_step; };
  std::erase_if(run_.files.steps, is_later);
  std::erase_if(run_.files.evals, is_later);
  std::erase_if(run_.files.gradients, is_later);
  run_.files.summary.reset();
  start_step_ = info.start_step;
  write(kRunning);
}

void ReportFile::on_step(const StepRecord& record) {
  run_.files.steps.push_back(record);
  write_if_due();
}

void ReportFile::on_eval(const EvalRecord& record) { run_.files.evals.push_back(record); }

void ReportFile::on_gradients(const GradientRecord& record) {
  run_.files.gradients.push_back(record);
}

void ReportFile::on_end(const Summary& summary) {
  run_.files.summary = summary;
  write(to_string(summary.status));
}

void ReportFile::write_if_due() {
  if (Clock::now() >= due_) write(kRunning);
}

// Nothing is held against the run, so its figures need no even blocks and no end: the step is that
// of summary.json, the quality the last that was measured.
Comparison ReportFile::figures(const std::vector<ComparedRun>& shown) const {
  Comparison comparison = compare_runs(plan_, shown);
  ModeResult& mode = comparison.modes.front();
  std::vector<double> step_ms;
  for (const StepRecord& step : run_.files.steps)
    if (step.step > start_step_) step_ms.push_back(step.step_ms);
  mode.step_ms = spread_of(step_ms);
  if (!run_.files.evals.empty()) {
    mode.val_loss = run_.files.evals.back().val_loss;
    mode.val_accuracy = run_.files.evals.back().val_accuracy;
  }
  return comparison;
}

void ReportFile::write(const std::string& status) {
  const Clock::time_point begin = Clock::now();
  due_ = begin + kEvery;  // also if this one fails
  facts_.status = status;
  std::vector<ComparedRun> shown(1, run_);
  const Comparison comparison = figures(shown);
  shown.front().files.steps = thinned(run_.files.steps);
  const std::string json = comparison_json(facts_, plan_, shown, comparison);
  write_file_atomically(folder_ / "report.html", report_page(json, status == kRunning));
  const Clock::time_point end = Clock::now();
  due_ = end + std::max<Clock::duration>(kEvery, kMostOfTime * (end - begin));
}

}  // namespace mezzo::report
