#include "mezzo/train/health.h"

#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include "tests/testing.h"

namespace mezzo::train {
namespace {

using ::testing::ElementsAre;
using ::testing::Pair;
using Row = report::HealthRecord::Row;

// Of four numbers that are not zero one is below fp16's smallest, 2^-24.
numerics::Range known_range() {
  numerics::Range range;
  range.add(at::tensor({0.0f, 0.0f, 1.0f, 0x1p-32f, 0x1p-20f, 4.0f}));
  return range;
}

Health known_health() {
  Health health;
  health.modules.push_back({"h.0.mlp", "", known_range(), {}});
  ParameterHealth& parameter = health.parameters.emplace_back();
  parameter.name = "h.0.mlp.c_fc.weight";
  parameter.weights = parameter.gradients = known_range();
  parameter.update = 0.25;
  parameter.lost_update = 0.5;
  return health;
}

TEST(Health, UnderflowIsTheShareOfWhatIsNotZero) {
  const numerics::Magnitudes m = known_range().magnitudes;
  EXPECT_EQ(underflow(m, float_format(at::kHalf), 1.0), 0.25);
  EXPECT_EQ(underflow(m, float_format(at::kHalf), 1024.0), 0.0);
  EXPECT_EQ(underflow(m, float_format(at::kBFloat16), 1.0), 0.0);
  numerics::Range zeros;
  zeros.add(at::zeros({3}));
  EXPECT_EQ(underflow(zeros.magnitudes, float_format(at::kHalf), 1.0), 0.0);
}

TEST(HealthRecord, HasARowForEachKindOfNumbersThatThereAre) {
  const report::HealthRecord record = health_record(7, known_health(), 1024.0, false);
  EXPECT_EQ(record.step, 7);
  EXPECT_EQ(record.scale, 1024.0);
  std::vector<std::string> what;
  for (const Row& row : record.rows) what.push_back(row.where + " " + row.what);
  EXPECT_THAT(what, ElementsAre("h.0.mlp activations", "h.0.mlp.c_fc.weight weights",
                                "h.0.mlp.c_fc.weight weight gradients"));
  const Row& row = record.rows.front();
  EXPECT_EQ(row.dtype, "fp32");
  EXPECT_EQ(row.values, 6);
  EXPECT_EQ(row.largest, 4.0);
  EXPECT_DOUBLE_EQ(row.zeros, 2.0 / 6.0);
}

// FP8 is scaled so that 4 just fits: by 2^6 in E4M3, whose smallest number is 2^-9, and by 2^13 in
// E5M2, whose smallest is 2^-16.
TEST(HealthRecord, OnlyWeightGradientsUnderflowAtTheLossScale) {
  const report::HealthRecord record = health_record(7, known_health(), 1024.0, false);
  for (const Row& row : record.rows) {
    EXPECT_THAT(row.underflow,
                ElementsAre(Pair("fp16", row.what == "weight gradients" ? 0.0 : 0.25),
                            Pair("bf16", 0.0), Pair("fp8_e4m3", 0.5), Pair("fp8_e5m2", 0.25)))
        << row.what;
  }
}

TEST(HealthRecord, TellsOfUpdatesWhereTheStepWasTaken) {
  for (const bool is_skipped : {false, true}) {
    const report::HealthRecord record = health_record(7, known_health(), 1.0, is_skipped);
    for (const Row& row : record.rows) {
      const bool has_update = row.what == "weights" && !is_skipped;
      EXPECT_EQ(row.update, has_update ? std::optional(0.25) : std::nullopt) << row.what;
      EXPECT_EQ(row.lost_update, has_update ? std::optional(0.5) : std::nullopt) << row.what;
    }
  }
}

}  // namespace
}  // namespace mezzo::train
