#include "mezzo/report/metrics_file.h"

#include <cmath>
#include <csignal>
#include <limits>

#include <nlohmann/json.hpp>
#include <sys/resource.h>

#include "mezzo/base/check.h"
#include "tests/testing.h"

namespace mezzo::report {
namespace {

StepRecord step(int64_t number) {
  StepRecord record;
  record.step = number;
  record.loss = 4.5;
  record.lr = 0.5;
  record.grad_norm = 0.25;
  record.scale = 65536;
  record.step_ms = 12.5;
  record.tokens_per_s = 1000;
  return record;
}

std::string row(int64_t number) {
  return R"({"step":)" + std::to_string(number) +
         R"(,"loss":4.5,"lr":0.5,"grad_norm":0.25,"scale":65536.0,"skipped":false,)"
         R"("explained":false,"retries":0,"step_ms":12.5,"tokens_per_s":1000.0})"
         "\n";
}

/// A disk on which no file can grow beyond `bytes` while this lives.
class SmallDisk {
 public:
  explicit SmallDisk(rlim_t bytes) : signal_(std::signal(SIGXFSZ, SIG_IGN)) {
    ::getrlimit(RLIMIT_FSIZE, &before_);
    const rlimit small{bytes, before_.rlim_max};
    ::setrlimit(RLIMIT_FSIZE, &small);
  }
  ~SmallDisk() {
    ::setrlimit(RLIMIT_FSIZE, &before_);
    std::signal(SIGXFSZ, signal_);
  }

 private:
  void (*signal_)(int);
  rlimit before_{};
};

TEST(MetricsFile, WritesOneObjectALineWithTheDocumentedKeys) {
  testing::TempDir dir;
  MetricsFile file(dir / "metrics.jsonl", 0);
  file.on_step(step(1));
  file.on_eval({1, 4.25, 0.5});
  EXPECT_EQ(testing::read_file(dir / "metrics.jsonl"),
            row(1) + R"({"step":1,"val_loss":4.25,"val_accuracy":0.5})"
                     "\n")
      << "read while the file is still open: each row is flushed";
}

TEST(MetricsFile, AStepsHealthIsARowOfItsOwn) {
  testing::TempDir dir;
  HealthRecord health{50,
                      1024.0,
                      {{"h.0.mlp",
                        "activations",
                        "fp16",
                        8,
                        1,
                        12.5,
                        3.0,
                        4.25,
                        0.5,
                        {{"fp16", 0.25}},
                        std::nullopt,
                        std::nullopt}}};
  health.rows.push_back(health.rows[0]);
  health.rows[1].lost_update = 0.75;
  MetricsFile(dir / "m", 0).on_health(health);
  const auto json = nlohmann::json::parse(testing::read_file(dir / "m"));
  EXPECT_EQ(json["step"], 50);
  EXPECT_EQ(json["health"]["scale"], 1024.0);
  const auto& row = json["health"]["rows"][0];
  EXPECT_EQ(row["where"], "h.0.mlp");
  EXPECT_EQ(row["what"], "activations");
  EXPECT_EQ(row["largest"], 12.5);
  EXPECT_EQ(row["underflow"]["fp16"], 0.25);
  EXPECT_FALSE(row.contains("lost_update"));
  EXPECT_EQ(json["health"]["rows"][1]["lost_update"], 0.75);
}

TEST(MetricsFile, ASkippedStepIsStillJson) {
  testing::TempDir dir;
  StepRecord record = step(3);
  record.loss = NAN;
  record.grad_norm = std::numeric_limits<double>::infinity();
  record.skipped = true;
  record.explained = true;
  record.retries = 3;
  MetricsFile(dir / "m", 0).on_step(record);
  const auto json = nlohmann::json::parse(testing::read_file(dir / "m"));
  EXPECT_EQ(json["loss"], "nan");
  EXPECT_EQ(json["grad_norm"], "inf");
  EXPECT_EQ(json["skipped"], true);
  EXPECT_EQ(json["explained"], true);
  EXPECT_EQ(json["retries"], 3);
}

TEST(MetricsFile, OnResumeTheRowsAfterTheCheckpointAreDropped) {
  testing::TempDir dir;
  const std::string eval_2 = "{\"step\":2,\"val_loss\":4.0,\"val_accuracy\":0.5}\n";
  const std::string eval_3 = "{\"step\":3,\"val_loss\":4.0,\"val_accuracy\":0.5}\n";
  const std::string before = row(1) + row(2) + eval_2 + row(3) + eval_3;
  testing::write_file(dir / "m", before);
  MetricsFile file(dir / "m", 2);
  EXPECT_EQ(testing::read_file(dir / "m"), before) << "no step has been taken yet";
  file.on_step(step(3));
  file.on_step(step(4));
  EXPECT_EQ(testing::read_file(dir / "m"), row(1) + row(2) + eval_2 + row(3) + row(4));
}

TEST(MetricsFile, OfARunThatEndsBeforeItsFirstStepStaysAsItWas) {
  testing::TempDir dir;
  testing::write_file(dir / "m", row(1) + row(2) + row(3));
  MetricsFile(dir / "m", 2).on_end({});
  EXPECT_EQ(testing::read_file(dir / "m"), row(1) + row(2) + row(3));
}

TEST(MetricsFile, ALastLineCutShortAnywhereIsDropped) {
  testing::TempDir dir;
  for (size_t length = 0; length < row(2).size() - 2; ++length) {
    testing::write_file(dir / "m", row(1) + row(2).substr(0, length));
    MetricsFile(dir / "m", 5).on_step(step(6));
    EXPECT_EQ(testing::read_file(dir / "m"), row(1) + row(6)) << "cut after " << length;
  }
}

TEST(MetricsFile, ALastLineThatOnlyLacksItsNewlineIsKept) {
  testing::TempDir dir;
  testing::write_file(dir / "m", row(1) + row(2).substr(0, row(2).size() - 1));
  MetricsFile(dir / "m", 5).on_step(step(6));
  EXPECT_EQ(testing::read_file(dir / "m"), row(1) + row(2) + row(6));
}

TEST(MetricsFile, RefusesAFileThatIsSomethingElse) {
  testing::TempDir dir;
  const std::string other = row(1) + "dear diary\n" + row(2);
  testing::write_file(dir / "m", other);
  EXPECT_THROW_WITH(MetricsFile(dir / "m", 5), "line 2 must be a JSON object");
  EXPECT_EQ(testing::read_file(dir / "m"), other) << "and leaves it as it was";
}

TEST(MetricsFile, RowsThatFindNoRoomAreWrittenWhenThereIsSome) {
  testing::TempDir dir;
  MetricsFile file(dir / "m", 0);
  file.on_step(step(1));
  {
    const SmallDisk disk(row(1).size() + 10);
    EXPECT_THROW_WITH(file.on_step(step(2)), "is the disk full?");
    EXPECT_EQ(testing::read_file(dir / "m"), row(1)) << "no part of a row";
    EXPECT_THROW_WITH(file.on_step(step(3)), "is the disk full?");
    EXPECT_THROW_WITH(file.on_end({}), "is the disk full?");
  }
  file.on_step(step(4));
  EXPECT_NO_THROW(file.on_end({}));
  EXPECT_EQ(testing::read_file(dir / "m"), row(1) + row(2) + row(3) + row(4));
}

TEST(MetricsFile, SaysThatItCannotBeWritten) {
  testing::TempDir dir;
  EXPECT_THROW_WITH(MetricsFile(dir / "no" / "m", 0), "cannot be opened");
}

}  // namespace
}  // namespace mezzo::report
