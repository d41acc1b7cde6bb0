#include "mezzo/report/progress.h"

#include <cmath>
#include <sstream>

#include "mezzo/base/check.h"
#include "tests/testing.h"

namespace mezzo::report {
namespace {

using ::testing::ContainsRegex;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

/// The screen after a stream of text, \r, \n, "erase to the end of the line" and colours; and the
/// rightmost column that was ever written to.
struct Screen {
  std::vector<std::string> lines = {""};  // without colours; characters, not bytes, are columns
  size_t widest = 0;

  explicit Screen(const std::string& text) {
    size_t column = 0;
    for (size_t i = 0; i < text.size(); ++i) {
      if (text[i] == '\x1b') {
        const size_t end = text.find_first_of("mK", i);
        if (text[end] == 'K') lines.back().resize(column);  // used at column 0 only
        i = end;
      } else if (text[i] == '\r') {
        column = 0;
      } else if (text[i] == '\n') {
        lines.emplace_back();
        column = 0;
      } else {
        lines.back() += text[i];
        if ((text[i] & 0xC0) != 0x80) ++column;
        widest = std::max(widest, column);
      }
    }
  }
};

struct Bench {
  std::ostringstream out;
  double now_s = 100;
  int width = 80;
  std::unique_ptr<Progress> progress;

  explicit Bench(Terminal terminal) {
    ProgressOptions options;
    options.terminal = terminal;
    options.width = [this] { return width; };
    options.now_s = [this] { return now_s; };
    progress = std::make_unique<Progress>(out, options);
  }
  void start(int64_t start_step = 0) {
    RunInfo info;
    info.model = "nano";
    info.precision = "amp-fp16";
    info.device = "cpu";
    info.run_dir = "runs/a";
    info.parameters = 1'234'567;
    info.steps_total = 2000;
    info.start_step = start_step;
    info.tokens_per_step = 1024;
    progress->on_start(info);
    out.str("");
  }
  void step(int64_t number, double loss = 4.1273, double scale = 65536, bool skipped = false,
            bool explained = false) {
    StepRecord record;
    record.step = number;
    record.loss = loss;
    record.grad_norm = 0.981;
    record.scale = scale;
    record.lr = 3e-4;
    record.step_ms = 412;
    record.tokens_per_s = 9900;
    record.peak_tensor_bytes = 812 << 20;
    record.skipped = skipped;
    record.explained = explained;
    progress->on_step(record);
  }
  Screen screen() const { return Screen(out.str()); }
};

constexpr Terminal kFile{};
constexpr Terminal kPlainTerminal{.is_terminal = true};
constexpr Terminal kFullTerminal{.is_terminal = true, .has_colour = true, .has_unicode = true};

TEST(Progress, InAFileItPrintsTheFirstTheLastAndOneLineEveryFewSeconds) {
  Bench bench(kFile);
  bench.start();
  for (int64_t i = 1; i <= 12; ++i) {
    bench.step(i);
    bench.now_s += 1;
  }
  bench.step(2000);
  const std::string tail =
      "/2000 | loss 4.1273 | norm 0.981 | scale 65536 | lr 3.0e-04 | 412 ms | 9.9k tok/s";
  EXPECT_THAT(bench.screen().lines, ElementsAre("step    1" + tail, "step    6" + tail,
                                                "step   11" + tail, "step 2000" + tail, ""));
}

TEST(Progress, ThePaceIsTheMeanOfTheLastSeconds) {
  Bench bench(kFile);
  bench.start();
  StepRecord record;
  record.step_ms = 1000;
  record.tokens_per_s = 100;
  for (record.step = 1; record.step <= 10; ++record.step) bench.progress->on_step(record);
  record.step_ms = 250;
  record.tokens_per_s = 400;
  bench.now_s += 5;
  bench.progress->on_step(record);
  // Four of 100 tokens in 1 s and one of 100 in 250 ms.
  EXPECT_THAT(bench.screen().lines[1], HasSubstr("850 ms | 118 tok/s"));
}

TEST(Progress, InAFileThereIsNoControlCharacter) {
  Bench bench(kFile);
  bench.start();
  bench.step(1);
  bench.progress->on_note("step    2 skipped");
  bench.progress->on_eval({2, 4.2, 0.25});
  bench.progress->on_end(Summary{});
  for (const char c : bench.out.str()) EXPECT_TRUE(c == '\n' || c >= ' ') << int(c);
}

TEST(Progress, NotesAndEvaluationsArePrintedAtOnce) {
  Bench bench(kFile);
  bench.start();
  bench.progress->on_note("step  121 skipped: overflow, scale 65536 -> 32768");
  bench.progress->on_eval({121, 4.2012, 0.2345});
  EXPECT_THAT(bench.screen().lines,
              ElementsAre("step  121 skipped: overflow, scale 65536 -> 32768",
                          "step  121/2000 | val loss 4.2012 | val accuracy 23.45 %", ""));
}

TEST(Progress, OnATerminalOneLineIsRedrawnInPlace) {
  Bench bench(kPlainTerminal);
  bench.start();
  for (int64_t i = 1; i <= 50; ++i) {
    bench.step(i, 5.0 - 0.01 * static_cast<double>(i));
    bench.now_s += 1;
  }
  const Screen screen = bench.screen();
  ASSERT_EQ(screen.lines.size(), 1u);
  EXPECT_THAT(screen.lines[0], HasSubstr("50/2000 | loss 4.5000"));
  EXPECT_THAT(screen.lines[0], HasSubstr("9.9k tok/s"));
  EXPECT_THAT(screen.lines[0], HasSubstr("31m51s left")) << "1 s a step (49 s for 50), 1950 to go";
}

TEST(Progress, TheLiveLineShowsTheBarTheScaleTheSkippedStepsAndThePeak) {
  Bench bench(kPlainTerminal);
  bench.width = 140;
  bench.start();
  bench.progress->on_eval({0, 9.25, 0.01});
  bench.step(999, 4.0, 65536, /*skipped=*/true);
  bench.now_s += 1;
  bench.step(1000, 4.0, 32768);
  const std::string line = bench.screen().lines[1];
  EXPECT_THAT(line, ContainsRegex("^#+-+ 1000/2000"));
  EXPECT_EQ(std::count(line.begin(), line.end(), '#'),
            std::count(line.begin(), line.begin() + 32, '-'))
      << "half of the bar is full";
  EXPECT_THAT(line, HasSubstr("val 9.2500"));
  EXPECT_THAT(line, HasSubstr("scale 32768"));
  EXPECT_THAT(line, HasSubstr("1 skipped"));
  EXPECT_THAT(line, HasSubstr("peak 812 MiB"));
}

TEST(Progress, ExplainedSkipsAreShownAsProbesAndRaiseNoAlarm) {
  Bench bench(kFullTerminal);
  bench.width = 160;
  bench.start();
  bench.step(1, 4.0, 65536, /*skipped=*/true, /*explained=*/true);
  EXPECT_THAT(bench.out.str(), HasSubstr("\x1b[2m1 skipped (1 probe)"));
  bench.now_s += 1;
  bench.step(2, 4.0, 32768, /*skipped=*/true);
  EXPECT_THAT(bench.out.str(), HasSubstr("\x1b[33m2 skipped (1 probe)"));
}

TEST(Progress, TheScaleIsNotShownWhereTheLossIsNotScaled) {
  Bench bench(kPlainTerminal);
  bench.width = 140;
  bench.start();
  bench.step(1, 4.0, 1.0);
  EXPECT_THAT(bench.screen().lines[0], Not(HasSubstr("scale")));
}

TEST(Progress, TheLiveLineNeverReachesTheLastColumn) {
  for (int width = 1; width <= 200; ++width) {
    for (const Terminal& terminal : {kPlainTerminal, kFullTerminal}) {
      Bench bench(terminal);
      bench.start();
      bench.width = width;
      for (int64_t i = 1; i <= 20; ++i) {
        bench.step(i * 100, i == 3 ? NAN : 1e4 / static_cast<double>(i), 16777216, i == 3);
        bench.now_s += 1000;
      }
      EXPECT_LT(bench.screen().widest, static_cast<size_t>(width)) << "width " << width;
    }
  }
}

TEST(Progress, AWideTerminalIsUsed) {
  Bench bench(kFullTerminal);
  bench.start();
  bench.width = 160;
  for (int64_t i = 1; i <= 20; ++i) {
    bench.step(i, 1.0 / static_cast<double>(i));
    bench.now_s += 1;
  }
  EXPECT_GT(bench.screen().widest, 100u);
  EXPECT_THAT(bench.screen().lines[0], HasSubstr("█")) << "the curve of the loss";
}

TEST(Progress, ANarrowTerminalKeepsTheStepAndTheLoss) {
  Bench bench(kPlainTerminal);
  bench.start();
  bench.width = 34;
  bench.step(120);
  EXPECT_THAT(bench.screen().lines[0], HasSubstr("120/2000 | loss 4.1273"));
}

TEST(Progress, ANoteStaysAboveTheLiveLine) {
  Bench bench(kPlainTerminal);
  bench.start();
  bench.step(1);
  bench.progress->on_note("saved");
  const Screen screen = bench.screen();
  ASSERT_EQ(screen.lines.size(), 2u);
  EXPECT_EQ(screen.lines[0], "saved");
  EXPECT_THAT(screen.lines[1], HasSubstr("1/2000"));
}

TEST(Progress, RedrawsAtMostTenTimesASecond) {
  Bench bench(kPlainTerminal);
  bench.start();
  for (int64_t i = 1; i <= 1000; ++i) {
    bench.step(i);
    bench.now_s += 0.001;
  }
  const std::string text = bench.out.str();
  const auto redraws = std::count(text.begin(), text.end(), '\r');
  EXPECT_GE(redraws, 9);
  EXPECT_LE(redraws, 11);
}

TEST(Progress, ColoursOnlyWhereTheTerminalHasThem) {
  for (const Terminal& terminal : {kPlainTerminal, kFullTerminal}) {
    Bench bench(terminal);
    bench.start();
    bench.step(1);
    bench.progress->on_note("careful");
    const bool has_colour = bench.out.str().find("\x1b[3") != std::string::npos;
    EXPECT_EQ(has_colour, terminal.has_colour);
  }
}

TEST(Progress, StartsWithTheSettingsInColumns) {
  Bench bench(kFile);
  RunInfo info;
  info.model = "nano";
  info.precision = "amp-bf16";
  info.device = "cpu";
  info.run_dir = "runs/a";
  info.parameters = 1'234'567;
  info.tokens_per_step = 1024;
  info.settings = {{"lr", "0.0003"}, {"warmup", "50"}, {"clip", "1"}};
  bench.width = 45;
  bench.progress->on_start(info);
  EXPECT_THAT(bench.screen().lines,
              ElementsAre("nano (1.2M parameters) in amp-bf16 on cpu, 1.0k tokens a step -> runs/a",
                          "  lr     0.0003   clip   1", "  warmup 50", ""));
}

TEST(Progress, ASettingThatIsTooLongForAColumnHasALineOfItsOwn) {
  Bench bench(kFile);
  RunInfo info;
  info.settings = {{"lr", "0.0003"}, {"data", "/a/path/that/is/not/short.txt"}, {"clip", "1"}};
  bench.progress->on_start(info);
  EXPECT_THAT(bench.screen().lines, ElementsAre(::testing::_, "  lr   0.0003   clip 1",
                                                "  data /a/path/that/is/not/short.txt", ""));
}

TEST(Progress, NamesNoFolderWhereNothingIsWritten) {
  Bench bench(kFile);
  bench.progress->on_start({});
  EXPECT_THAT(bench.out.str(), ::testing::EndsWith("tokens a step\n"));
}

TEST(Progress, EndsWithWhatTheRunCameTo) {
  Bench bench(kPlainTerminal);
  bench.start();
  bench.step(20);
  bench.now_s += 192;
  Summary summary;
  summary.status = Status::kDiverged;
  summary.steps = 20;
  summary.tokens = 20480;
  summary.train_loss = 4.5;
  summary.val_loss = 4.25;
  summary.val_accuracy = 0.125;
  summary.median_step_ms = 412;
  summary.tokens_per_s = 9900;
  summary.peak_tensor_bytes = 1 << 30;
  summary.skipped_steps = 3;
  summary.explained_skips = 2;
  summary.diverged_at = 19;
  bench.progress->on_end(summary);
  const Screen screen = bench.screen();
  ASSERT_EQ(screen.lines.size(), 2u) << "the summary in the live line's place, a fresh line";
  EXPECT_EQ(screen.lines[0],
            "diverged: 20 steps, 20.5k tokens in 3m12s | loss 4.5000 (mean of 20 steps) | val loss "
            "4.2500 | accuracy 12.50 % | 412 ms | 9.9k tok/s | peak 1.0 GiB | 3 skipped (2 probes) "
            "| diverged at step 19");
  EXPECT_EQ(screen.lines[1], "");
}

TEST(Progress, OfARunThatTookNoStepItTellsNoLossAndNoPace) {
  Bench bench(kFile);
  bench.start(/*start_step=*/10);
  Summary summary;
  summary.status = Status::kInterrupted;
  summary.steps = 10;
  summary.train_loss = NAN;
  bench.progress->on_end(summary);
  EXPECT_EQ(bench.screen().lines[0],
            "interrupted: 10 steps, 0 tokens, the last 0 steps in 0.0s | peak 0 B | 0 skipped");
}

TEST(Progress, LeavesTheCursorOnAFreshLineWhenTrainingThrows) {
  Bench bench(kPlainTerminal);
  bench.start();
  bench.step(1);
  bench.progress.reset();
  EXPECT_EQ(bench.screen().lines.back(), "");
}

TEST(Progress, TheTimeLeftCountsFromTheResumedStep) {
  Bench bench(kPlainTerminal);
  bench.start(/*start_step=*/1000);
  bench.now_s += 10;
  bench.step(1010);
  EXPECT_THAT(bench.screen().lines[0], HasSubstr("16m30s left")) << "990 steps at 1 s";
}

TEST(Progress, TheTimeOfAResumedRunIsThatOfTheStepsAfterIt) {
  Bench bench(kFile);
  bench.start(/*start_step=*/1000);
  bench.now_s += 12;
  Summary summary;
  summary.steps = 1500;
  summary.tokens = 3'000'000;
  bench.progress->on_end(summary);
  EXPECT_THAT(bench.out.str(),
              HasSubstr("done: 1500 steps, 3.0M tokens, the last 500 steps in 12s | loss"));
}

TEST(Progress, AStreamThatFailsIsAnError) {
  Bench bench(kFile);
  bench.start();
  bench.out.setstate(std::ios::badbit);
  EXPECT_THROW_WITH(bench.progress->on_note("x"), "its stream");
}

}  // namespace
}  // namespace mezzo::report
