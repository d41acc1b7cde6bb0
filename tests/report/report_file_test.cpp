#include "mezzo/report/report_file.h"

#include <stdexcept>

#include <nlohmann/json.hpp>

#include "mezzo/report/metrics_file.h"
#include "tests/testing.h"

namespace mezzo::report {
namespace {

using ::testing::HasSubstr;

/// The page of a run of so many steps, of which one was skipped.
std::string page_of(int64_t steps, int64_t skipped) {
  const mezzo::testing::TempDir folder;
  ReportFile file(folder.path(), {});
  RunInfo info;
  info.precision = "fp32";
  info.steps_total = steps;
  file.on_start(info);
  for (int64_t step = 1; step <= steps; ++step) {
    StepRecord record;
    record.step = step;
    record.loss = record.step_ms = 1.0;
    record.skipped = step == skipped;
    file.on_step(record);
  }
  file.on_end(Summary());
  return mezzo::testing::read_file(folder / "report.html");
}

TEST(ReportFile, OfALongRunHasStepsEvenlySpacedAndThoseThatWereSkipped) {
  const std::string page = page_of(100'000, 77'777);
  EXPECT_LT(page.size(), 2 * page_of(4000, 777).size());
  EXPECT_THAT(page, HasSubstr("77777"));
  EXPECT_THAT(page, HasSubstr("100000"));
}

StepRecord step_of(int64_t step, double ms) {
  StepRecord record;
  record.step = step;
  record.step_ms = ms;
  return record;
}

/// The page's data.
nlohmann::json data_of(const std::filesystem::path& folder) {
  const std::string page = mezzo::testing::read_file(folder / "report.html");
  const std::string begin = "id=\"data\">";
  const size_t from = page.find(begin) + begin.size();
  return nlohmann::json::parse(page.substr(from, page.find("</script>", from) - from));
}

TEST(ReportFile, OfARunThatGoesOnHasNothingOfWhatCameAfterItsCheckpoint) {
  const mezzo::testing::TempDir folder;
  MetricsFile before(folder / "metrics.jsonl", 0);
  for (int64_t step = 1; step <= 9; ++step) before.on_step(step_of(step, 1));
  before.on_eval({9, 4.0, 0.5});
  ReportFile file(folder.path(), {});
  RunInfo info;
  info.precision = "fp32";
  info.start_step = 5;
  file.on_start(info);
  const auto run = data_of(folder.path())["runs"][0];
  EXPECT_EQ(run["steps"]["step"].size(), 5u);
  EXPECT_EQ(run["evals"]["step"].size(), 0u);
}

TEST(ReportFile, OfARunThatIsNotDoneHasTheFiguresOfItsSummary) {
  const mezzo::testing::TempDir folder;
  ReportFile file(folder.path(), {});
  RunInfo info;
  info.precision = "fp32";
  info.steps_total = 100;
  file.on_start(info);
  for (const auto& [step, ms] : {std::pair(1, 8.0), std::pair(2, 3.0), std::pair(3, 1.0)})
    file.on_step(step_of(step, ms));
  file.on_eval({3, 4.5, 0.25});
  Summary summary;
  summary.status = Status::kInterrupted;
  file.on_end(summary);
  const nlohmann::json row = data_of(folder.path())["table"][0];
  EXPECT_EQ(row["step_ms"]["median"], 3.0) << "of all steps, as in summary.json";
  EXPECT_EQ(row["accuracy"]["val_loss"], 4.5);
  EXPECT_EQ(row["accuracy"]["absolute"], 0.25);
}

TEST(ReportFile, OfARunThatEndsByAnErrorSaysSoAndIsNotLoadedAnew) {
  const mezzo::testing::TempDir folder;
  RunInfo info;
  info.precision = "fp32";
  info.steps_total = 100;
  std::string running;
  try {
    ReportFile file(folder.path(), {});
    file.on_start(info);
    running = mezzo::testing::read_file(folder / "report.html");
    throw std::runtime_error("out of memory");
  } catch (const std::runtime_error&) {
  }
  EXPECT_EQ(data_of(folder.path())["status"], "failed");
  EXPECT_THAT(running, HasSubstr("http-equiv=\"refresh\""));
  EXPECT_THAT(mezzo::testing::read_file(folder / "report.html"),
              ::testing::Not(HasSubstr("http-equiv=\"refresh\"")));
}

}  // namespace
}  // namespace mezzo::report
