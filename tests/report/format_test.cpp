#include "mezzo/report/format.h"

#include <cmath>
#include <limits>

#include "mezzo/base/check.h"
#include "tests/testing.h"

namespace mezzo::report {
namespace {

TEST(Format, CountHasAtMostThreeDigitsAndAUnit) {
  EXPECT_EQ(format_count(0), "0");
  EXPECT_EQ(format_count(999), "999");
  EXPECT_EQ(format_count(9912), "9.9k");
  EXPECT_EQ(format_count(12'345), "12.3k");
  EXPECT_EQ(format_count(124'439'808), "124M");
  EXPECT_EQ(format_count(1.5e9), "1.5G");
  EXPECT_EQ(format_count(NAN), "nan");
}

TEST(Format, CountChoosesItsUnitAfterRounding) {
  EXPECT_EQ(format_count(999.6), "1.0k");
  EXPECT_EQ(format_count(99'960), "100k");
  EXPECT_EQ(format_count(999'499), "999k");
  EXPECT_EQ(format_count(999'500), "1.0M");
}

TEST(Format, BytesCountInPowersOf1024) {
  EXPECT_EQ(format_bytes(512), "512 B");
  EXPECT_EQ(format_bytes(1024), "1.0 KiB");
  EXPECT_EQ(format_bytes(812 << 20), "812 MiB");
  EXPECT_EQ(format_bytes(int64_t{5} << 28), "1.2 GiB");
  EXPECT_EQ(format_bytes((1 << 20) - 1), "1.0 MiB");
}

TEST(Format, DurationShowsItsTwoLargestUnits) {
  EXPECT_EQ(format_duration(0.42), "0.4s");
  EXPECT_EQ(format_duration(42), "42s");
  EXPECT_EQ(format_duration(59.7), "1m00s");
  EXPECT_EQ(format_duration(192), "3m12s");
  EXPECT_EQ(format_duration(3900), "1h05m");
  EXPECT_EQ(format_duration(2 * 86400 + 3 * 3600), "2d03h");
  EXPECT_EQ(format_duration(NAN), "?");
  EXPECT_EQ(format_duration(-1), "?");
  EXPECT_EQ(format_duration(std::numeric_limits<double>::infinity()), "?");
}

TEST(Format, MillisecondsBecomeSecondsFromTenOn) {
  EXPECT_EQ(format_ms(3.44), "3.4 ms");
  EXPECT_EQ(format_ms(412.3), "412 ms");
  EXPECT_EQ(format_ms(9999), "9999 ms");
  EXPECT_EQ(format_ms(12'300), "12.3 s");
}

TEST(Format, ScaleKeepsEveryDigitOfAWholeNumber) {
  EXPECT_EQ(format_scale(65536), "65536");
  EXPECT_EQ(format_scale(16777216), "16777216");
  EXPECT_EQ(format_scale(0.5), "0.5");
  EXPECT_EQ(format_scale(NAN), "nan");
}

TEST(Format, ANaNHasNoSign) {
  EXPECT_EQ(format_fixed(std::copysign(NAN, -1.0), 4), "nan");
  EXPECT_EQ(format_fixed(-1.5, 2), "-1.50");
  StepRecord record;
  record.loss = record.grad_norm = std::copysign(NAN, -1.0);
  EXPECT_THAT(format_step_line(record, 1), ::testing::HasSubstr("loss nan | norm nan"));
}

TEST(Format, StepLineIsTheDocumentedOne) {
  StepRecord record;
  record.step = 120;
  record.loss = 4.12734;
  record.grad_norm = 0.9811;
  record.scale = 65536;
  record.lr = 3e-4;
  record.step_ms = 412.2;
  record.tokens_per_s = 9'930;
  EXPECT_EQ(format_step_line(record, 2000),
            "step  120/2000 | loss 4.1273 | norm 0.981 | scale 65536 | lr 3.0e-04 | 412 ms | 9.9k "
            "tok/s");
}

TEST(Format, SkipNoteIsAlignedWithTheStepLine) {
  EXPECT_EQ(format_skip_note(121, 2000, "inf in h.7.mlp.c_fc.weight (+3)", 65536, 32768, ""),
            "step  121 skipped: inf in h.7.mlp.c_fc.weight (+3), scale 65536 -> 32768");
}

TEST(Format, AScaleThatStaysHasNoArrow) {
  EXPECT_EQ(format_skip_note(121, 2000, "nan in ln_f.bias (+51)", 1e30, 1e30, ""),
            "step  121 skipped: nan in ln_f.bias (+51), scale stays at 1e+30");
}

TEST(Format, ARemarkEndsItsNote) {
  EXPECT_EQ(format_skip_note(121, 2000, "inf in wte.weight", 65536, 32768, "probe"),
            "step  121 skipped: inf in wte.weight, scale 65536 -> 32768 | probe");
  EXPECT_EQ(format_overflow_note(121, 2000, "nan in wte.weight", "from h.7 down"),
            "step  121: nan in wte.weight | from h.7 down");
}

TEST(Format, ProbesAreCountedAmongTheSkips) {
  EXPECT_EQ(format_skips(0, 0), "0 skipped");
  EXPECT_EQ(format_skips(3, 0), "3 skipped");
  EXPECT_EQ(format_skips(3, 1), "3 skipped (1 probe)");
  EXPECT_EQ(format_skips(3, 2), "3 skipped (2 probes)");
}

TEST(Format, EvaluationShowsAccuracyInPercent) {
  EXPECT_EQ(format_eval_line({100, 4.2012, 0.23454}, 2000),
            "step  100/2000 | val loss 4.2012 | val accuracy 23.45 %");
}

}  // namespace
}  // namespace mezzo::report
