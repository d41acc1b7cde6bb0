#include "mezzo/report/sink.h"

#include <stdexcept>

#include "tests/testing.h"

namespace mezzo::report {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

/// Writes down what it hears.
class Ear : public Sink {
 public:
  explicit Ear(std::vector<std::string>& heard) : heard_(heard) {}
  std::string name() const override { return "ear"; }
  void on_start(const RunInfo& info) override { heard_.push_back("start " + info.model); }
  void on_step(const StepRecord& r) override { heard_.push_back("step " + std::to_string(r.step)); }
  void on_eval(const EvalRecord& r) override { heard_.push_back("eval " + std::to_string(r.step)); }
  void on_note(const std::string& text) override { heard_.push_back(text); }
  void on_end(const Summary& s) override { heard_.push_back("end " + std::to_string(s.steps)); }

 private:
  std::vector<std::string>& heard_;
};

/// Fails at the steps (and at the notes, if asked to), and counts how often it was told.
class Broken : public Sink {
 public:
  Broken(std::string name, int& told, bool at_notes = false)
      : name_(std::move(name)), told_(told), at_notes_(at_notes) {}
  std::string name() const override { return name_; }
  void on_step(const StepRecord&) override {
    ++told_;
    throw std::runtime_error("disk full");
  }
  void on_end(const Summary&) override { throw std::runtime_error("disk full"); }
  void on_note(const std::string&) override {
    if (at_notes_) throw 42;
  }

 private:
  std::string name_;
  int& told_;
  bool at_notes_;
};

StepRecord step(int64_t number) {
  StepRecord record;
  record.step = number;
  return record;
}

/// Waits after step 3.
class Waiting : public Sink {
 public:
  std::string name() const override { return "waiting"; }
  bool waits_after(int64_t step) const override { return step == 3; }
};

TEST(Sinks, WaitIfOneOfThemDoes) {
  std::vector<std::string> heard;
  Sinks sinks;
  EXPECT_FALSE(sinks.waits_after(3));
  sinks.add(std::make_unique<Waiting>());
  sinks.add(std::make_unique<Ear>(heard));
  EXPECT_TRUE(sinks.waits_after(3));
  EXPECT_FALSE(sinks.waits_after(4));
}

TEST(Sinks, EachSinkHearsEveryEventInOrder) {
  std::vector<std::string> first, second;
  Sinks sinks;
  sinks.add(std::make_unique<Ear>(first));
  sinks.add(std::make_unique<Ear>(second));
  RunInfo info;
  info.model = "nano";
  sinks.on_start(info);
  sinks.on_step(step(1));
  sinks.on_eval({1, 4.2, 0.1});
  sinks.on_note("hello");
  Summary summary;
  summary.steps = 1;
  sinks.on_end(summary);
  EXPECT_THAT(first, ElementsAre("start nano", "step 1", "eval 1", "hello", "end 1"));
  EXPECT_EQ(first, second);
}

TEST(Sinks, ASinkThatThrowsIsToldOnAndReportedOnce) {
  std::vector<std::string> heard;
  int told = 0;
  Sinks sinks;
  sinks.add(std::make_unique<Broken>("metrics.jsonl", told));
  sinks.add(std::make_unique<Ear>(heard));
  for (int64_t i = 1; i <= 3; ++i) EXPECT_NO_THROW(sinks.on_step(step(i)));
  EXPECT_EQ(told, 3);
  EXPECT_THAT(heard,
              ElementsAre("step 1", "metrics.jsonl failed, which does not stop the run: disk full",
                          "step 2", "step 3"));
  sinks.on_end({});
  EXPECT_THAT(heard.back(), HasSubstr("metrics.jsonl failed"));
}

TEST(Sinks, ASinkThatFailsAtHearingOfAFailureIsReportedToo) {
  std::vector<std::string> heard;
  int told = 0, told_second = 0;
  Sinks sinks;
  sinks.add(std::make_unique<Ear>(heard));
  sinks.add(std::make_unique<Broken>("first", told));
  sinks.add(std::make_unique<Broken>("second", told_second, /*at_notes=*/true));
  sinks.on_step(step(1));
  sinks.on_step(step(2));
  EXPECT_EQ(told + told_second, 4);
  EXPECT_THAT(heard, ElementsAre("step 1", HasSubstr("first failed"), HasSubstr("second failed"),
                                 "step 2"));
}

}  // namespace
}  // namespace mezzo::report
