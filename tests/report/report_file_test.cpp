#include "mezzo/report/report_file.h"

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

}  // namespace
}  // namespace mezzo::report
