#include "mezzo/report/summary_file.h"

#include <cmath>

#include <nlohmann/json.hpp>

#include "mezzo/base/check.h"
#include "tests/testing.h"

namespace mezzo::report {
namespace {

Summary full_summary() {
  Summary summary;
  summary.model = "nano";
  summary.precision = "amp-fp16";
  summary.device = "cpu";
  summary.parameters = 1000;
  summary.steps = 20;
  summary.tokens = 5120;
  summary.median_step_ms = 12.5;
  summary.tokens_per_s = 9000;
  summary.peak_tensor_bytes = 1 << 20;
  summary.peak_kinds = BytesByKind{1, 2, 3, 4, 5};
  summary.peak_rss_bytes = 1 << 30;
  summary.train_loss = 4.5;
  summary.val_loss = 4.25;
  summary.val_accuracy = 0.125;
  summary.skipped_steps = 3;
  summary.explained_skips = 2;
  summary.final_scale = 32768;
  return summary;
}

TEST(SummaryFile, HasExactlyTheDocumentedKeys) {
  const auto json = nlohmann::json::parse(summary_json(full_summary()));
  EXPECT_EQ(json, nlohmann::json::parse(R"({
    "status": "done", "model": "nano", "parameters": 1000, "precision": "amp-fp16", "device": "cpu",
    "steps": 20, "tokens": 5120, "median_step_ms": 12.5, "tokens_per_s": 9000.0,
    "peak_tensor_bytes": 1048576,
    "peak_bytes_by_kind": {"weights": 1, "gradients": 2, "optimizer_state": 3, "activations": 4,
                           "temporaries": 5},
    "peak_rss_bytes": 1073741824, "train_loss": 4.5,
    "val_loss": 4.25, "val_accuracy": 0.125, "skipped_steps": 3, "explained_skips": 2,
    "final_scale": 32768.0})"));
}

TEST(SummaryFile, ADivergedRunSaysWhere) {
  Summary summary = full_summary();
  summary.status = Status::kDiverged;
  summary.diverged_at = 17;
  summary.train_loss = NAN;
  const auto json = nlohmann::json::parse(summary_json(summary));
  EXPECT_EQ(json["status"], "diverged");
  EXPECT_EQ(json["diverged_at"], 17);
  EXPECT_EQ(json["train_loss"], "nan");
}

TEST(SummaryFile, WhatWasNeverMeasuredIsNull) {
  const auto json = nlohmann::json::parse(summary_json(Summary{}));
  EXPECT_TRUE(json.at("val_loss").is_null());
  EXPECT_TRUE(json.at("peak_bytes_by_kind").is_null());
  EXPECT_TRUE(json.at("val_accuracy").is_null());
}

TEST(SummaryFile, ANameThatIsNotUtf8DoesNotCostTheSummary) {
  Summary summary = full_summary();
  summary.model = "na\xffno";
  EXPECT_EQ(nlohmann::json::parse(summary_json(summary))["steps"], 20);
}

TEST(SummaryFile, IsWrittenWhenTheRunEnds) {
  testing::TempDir dir;
  SummaryFile file(dir / "summary.json");
  EXPECT_FALSE(std::filesystem::exists(dir / "summary.json"));
  file.on_end(full_summary());
  EXPECT_EQ(testing::read_file(dir / "summary.json"), summary_json(full_summary()));
}

}  // namespace
}  // namespace mezzo::report
