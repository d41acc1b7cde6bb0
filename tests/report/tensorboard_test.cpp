#include "mezzo/report/tensorboard.h"

#include <cmath>
#include <cstring>
#include <map>

#include <protozero/pbf_reader.hpp>

#include "mezzo/base/check.h"
#include "mezzo/report/crc32c.h"
#include "tests/testing.h"

namespace mezzo::report {
namespace {

using mezzo::testing::TempDir;

struct Histogram {
  std::vector<double> figures;  // min, max, number, sum, sum of squares
  std::vector<double> limits, counts;
};

struct Event {
  double wall_time = 0;
  int64_t step = 0;
  std::string version;
  bool is_session_start = false;
  std::map<std::string, float> scalars;
  std::map<std::string, Histogram> histograms;
};

template <class T>
T number_at(const std::string& bytes, size_t at) {
  T value;
  std::memcpy(&value, bytes.data() + at, sizeof value);
  return value;
}

uint32_t unmasked(uint32_t masked) {
  const uint32_t turned = masked - 0xa282ead8u;
  return (turned >> 17) | (turned << 15);
}

Histogram histogram_of(protozero::pbf_reader reader) {
  Histogram histogram;
  while (reader.next()) {
    if (reader.tag() == 6 || reader.tag() == 7) {
      const auto numbers = reader.get_packed_double();
      (reader.tag() == 6 ? histogram.limits : histogram.counts)
          .assign(numbers.begin(), numbers.end());
    } else {
      histogram.figures.push_back(reader.get_double());
    }
  }
  return histogram;
}

void add_value(Event& event, protozero::pbf_reader value) {
  std::string tag;
  while (value.next()) {
    if (value.tag() == 1) {
      tag = value.get_string();
    } else if (value.tag() == 5) {
      event.histograms[tag] = histogram_of(value.get_message());
    } else {
      event.scalars[tag] = value.get_float();
    }
  }
}

Event event_of(protozero::pbf_reader reader) {
  Event event;
  while (reader.next()) {
    if (reader.tag() == 1) {
      event.wall_time = reader.get_double();
    } else if (reader.tag() == 2) {
      event.step = reader.get_int64();
    } else if (reader.tag() == 3) {
      event.version = reader.get_string();
    } else if (reader.tag() == 7) {
      protozero::pbf_reader session = reader.get_message();
      event.is_session_start = session.next(1) && session.get_enum() == 1;
    } else {
      protozero::pbf_reader summary = reader.get_message();
      while (summary.next(1)) add_value(event, summary.get_message());
    }
  }
  return event;
}

/// All events of the one file in the folder; every checksum is checked on the way.
std::vector<Event> events_in(const std::filesystem::path& folder) {
  std::vector<Event> events;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    EXPECT_THAT(entry.path().filename().string(), ::testing::StartsWith("events.out.tfevents."));
    const std::string bytes = mezzo::testing::read_file(entry.path());
    for (size_t at = 0; at < bytes.size();) {
      const auto length = number_at<uint64_t>(bytes, at);
      EXPECT_EQ(unmasked(number_at<uint32_t>(bytes, at + 8)), crc32c(bytes.substr(at, 8)));
      const std::string message = bytes.substr(at + 12, length);
      EXPECT_EQ(unmasked(number_at<uint32_t>(bytes, at + 12 + length)), crc32c(message));
      events.push_back(event_of(protozero::pbf_reader(message)));
      at += 12 + length + 4;
    }
  }
  return events;
}

TEST(Crc32c, HasTheCheckValueOfItsDefinition) {
  EXPECT_EQ(crc32c("123456789"), 0xe3069283u);
  EXPECT_EQ(crc32c(""), 0u);
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8a9136aau) << "RFC 3720, B.4";
}

TEST(TensorBoard, WritesTheScalarsOfEachStepAndEvaluation) {
  const TempDir dir;
  {
    TensorBoard board(dir.path(), [] { return 1700000000.5; });
    board.on_start({});
    StepRecord step;
    step.step = 3;
    step.loss = 2.5;
    step.grad_norm = INFINITY;
    step.skipped = true;
    board.on_step(step);
    board.on_eval({3, 2.25, 0.5});
  }
  const std::vector<Event> events = events_in(dir.path());
  ASSERT_EQ(events.size(), 3u);
  EXPECT_EQ(events[0].version, "brain.Event:2");
  EXPECT_EQ(events[0].wall_time, 1700000000.5);
  EXPECT_EQ(events[1].step, 3);
  EXPECT_EQ(events[1].scalars.at("train/loss"), 2.5f);
  EXPECT_EQ(events[1].scalars.at("train/grad_norm"), INFINITY);
  EXPECT_EQ(events[1].scalars.at("train/skipped"), 1.0f);
  EXPECT_EQ(events[2].scalars.at("val/accuracy"), 0.5f);
}

TEST(TensorBoard, WritesTheHealthOfAStepByPartAndKind) {
  const TempDir dir;
  HealthRecord health;
  health.step = 50;
  health.rows.resize(1);
  health.rows[0].where = "h.0.mlp.c_fc.weight";
  health.rows[0].what = "weight gradients";
  health.rows[0].headroom_bits = 4.5;
  health.rows[0].underflow = {{"fp16", 0.25}, {"fp8_e4m3", 0.5}};
  {
    TensorBoard board(dir.path());
    board.on_start({});
    board.on_health(health);
  }
  const std::vector<Event> events = events_in(dir.path());
  ASSERT_EQ(events.size(), 2u);
  EXPECT_EQ(events[1].step, 50);
  EXPECT_EQ(events[1].scalars.at("health/h.0.mlp.c_fc.weight/weight_gradients/headroom_bits"),
            4.5f);
  EXPECT_EQ(events[1].scalars.at("health/h.0.mlp.c_fc.weight/weight_gradients/underflow_fp8_e4m3"),
            0.5f);
  EXPECT_EQ(events[1].scalars.count("health/h.0.mlp.c_fc.weight/weight_gradients/lost_update"), 0u);
}

TEST(TensorBoard, WritesTheMagnitudesOfGradientsAsAHistogramOfPowersOfTwo) {
  const TempDir dir;
  GradientRecord gradients;
  gradients.step = 100;
  gradients.values = 12;
  gradients.zeros = 2;
  gradients.first_exponent = -10;
  gradients.counts = {0, 6, 0, 4, 0};
  {
    TensorBoard board(dir.path());
    board.on_start({});
    board.on_gradients(gradients);
    gradients.counts = {0, 0, 0, 0, 0};
    board.on_gradients(gradients);  // says nothing
  }
  const std::vector<Event> events = events_in(dir.path());
  ASSERT_EQ(events.size(), 2u);
  EXPECT_EQ(events[1].step, 100);
  const Histogram& histogram = events[1].histograms.at("train/gradients_log2");
  EXPECT_THAT(histogram.limits, ::testing::ElementsAre(-8, -7, -6));
  EXPECT_THAT(histogram.counts, ::testing::ElementsAre(6, 0, 4));
  const double sum = 6 * -8.5 + 4 * -6.5, squares = 6 * 8.5 * 8.5 + 4 * 6.5 * 6.5;
  EXPECT_THAT(histogram.figures, ::testing::ElementsAre(-9, -6, 10, sum, squares));
}

TEST(TensorBoard, AResumedRunTakesThePlaceOfLaterEvents) {
  const TempDir dir;
  RunInfo info;
  info.start_step = 40;
  TensorBoard(dir.path()).on_start(info);
  const std::vector<Event> events = events_in(dir.path());
  ASSERT_EQ(events.size(), 2u);
  EXPECT_TRUE(events[1].is_session_start);
  EXPECT_EQ(events[1].step, 41);
}

TEST(TensorBoard, NeverWritesIntoAnEarlierStartsFile) {
  const TempDir dir;
  const auto clock = [] { return 5.0; };
  TensorBoard(dir.path(), clock).on_start({});
  TensorBoard(dir.path(), clock).on_start({});
  EXPECT_EQ(events_in(dir.path()).size(), 2u);
}

TEST(TensorBoard, NamesAFileThatCannotBeWritten) {
  TensorBoard board("/nowhere");
  EXPECT_THROW_WITH(board.on_start({}), "/nowhere/events.out.tfevents");
}

}  // namespace
}  // namespace mezzo::report
