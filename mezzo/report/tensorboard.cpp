#include "mezzo/report/tensorboard.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>

#include <fmt/format.h>
#include <protozero/pbf_writer.hpp>
#include <unistd.h>

#include "mezzo/report/crc32c.h"

namespace mezzo::report {
namespace {

// Field numbers of event.proto and summary.proto.
enum EventField { kWallTime = 1, kStep = 2, kFileVersion = 3, kSummary = 5, kSessionLog = 7 };
enum SummaryField { kValue = 1 };
enum ValueField { kTag = 1, kSimpleValue = 2, kHistogram = 5 };
enum HistogramField {
  kMin = 1,
  kMax = 2,
  kNumber = 3,
  kSum = 4,
  kSumSquares = 5,
  kBucketLimit = 6,
  kBucket = 7
};
enum SessionLogField { kStatus = 1 };
constexpr int32_t kSessionStart = 1;

double system_seconds() {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return std::chrono::duration<double>(now).count();
}

std::string host_name() {
  std::array<char, 256> name{};
  return ::gethostname(name.data(), name.size() - 1) == 0 ? name.data() : "unknown";
}

template <class Integer>
std::string little_endian(Integer value) {
  std::string bytes;
  for (size_t i = 0; i < sizeof(Integer); ++i)
    bytes.push_back(static_cast<char>((value >> (8 * i)) & 0xff));
  return bytes;
}

// A CRC of bytes that hold a CRC is weak, so TFRecord turns and moves it.
std::string masked_crc(std::string_view bytes) {
  const uint32_t crc = crc32c(bytes);
  return little_endian<uint32_t>(((crc >> 15) | (crc << 17)) + 0xa282ead8u);
}

}  // namespace

TensorBoard::TensorBoard(std::filesystem::path folder, std::function<double()> clock)
    : folder_(std::move(folder)), clock_(clock ? std::move(clock) : system_seconds) {}

void TensorBoard::on_start(const RunInfo& info) {
  const auto seconds = static_cast<int64_t>(clock_());
  const std::string name = fmt::format("events.out.tfevents.{}.{}", seconds, host_name());
  std::filesystem::path path = folder_ / name;
  for (int again = 1; std::filesystem::exists(path); ++again)  // two starts within a second
    path = folder_ / fmt::format("{}.{}", name, again);
  file_ = AppendedFile(path);
  std::string event;
  protozero::pbf_writer writer(event);
  writer.add_double(kWallTime, clock_());
  writer.add_string(kFileVersion, "brain.Event:2");
  write_record(event);
  if (info.start_step == 0) return;

  // Whoever reads the folder forgets the earlier files' events from this step on.
  event.clear();
  writer.add_double(kWallTime, clock_());
  writer.add_int64(kStep, info.start_step + 1);
  {
    protozero::pbf_writer session(writer, kSessionLog);
    session.add_enum(kStatus, kSessionStart);
  }
  write_record(event);
}

void TensorBoard::on_step(const StepRecord& record) {
  write_scalars(record.step,
                {{"train/loss", record.loss},
                 {"train/lr", record.lr},
                 {"train/grad_norm", record.grad_norm},
                 {"train/scale", record.scale},
                 {"train/skipped", record.skipped ? 1.0 : 0.0},
                 {"perf/step_ms", record.step_ms},
                 {"perf/tokens_per_s", record.tokens_per_s},
                 {"memory/peak_tensor_bytes", static_cast<double>(record.peak_tensor_bytes)}});
}

void TensorBoard::on_eval(const EvalRecord& record) {
  write_scalars(record.step,
                {{"val/loss", record.val_loss}, {"val/accuracy", record.val_accuracy}});
}

// Over log2 of the magnitudes: TensorBoard's own buckets are even in what they show.
void TensorBoard::on_gradients(const GradientRecord& record) {
  std::vector<double> limits, counts;
  double number = 0, sum = 0, sum_squares = 0;
  for (size_t i = 0; i < record.counts.size(); ++i) {
    if (record.counts[i] == 0 && limits.empty()) continue;
    const double low = record.first_exponent + static_cast<double>(i), middle = low + 0.5;
    const auto count = static_cast<double>(record.counts[i]);
    limits.push_back(low + 1);
    counts.push_back(count);
    number += count;
    sum += count * middle;
    sum_squares += count * middle * middle;
  }
  while (!counts.empty() && counts.back() == 0) {
    limits.pop_back();
    counts.pop_back();
  }
  if (counts.empty()) return;  // all are 0, or not finite
  write_summary(record.step, [&](protozero::pbf_writer& summary) {
    protozero::pbf_writer value(summary, kValue);
    value.add_string(kTag, "train/gradients_log2");
    protozero::pbf_writer histogram(value, kHistogram);
    histogram.add_double(kMin, limits.front() - 1);
    histogram.add_double(kMax, limits.back());
    histogram.add_double(kNumber, number);
    histogram.add_double(kSum, sum);
    histogram.add_double(kSumSquares, sum_squares);
    histogram.add_packed_double(kBucketLimit, limits.begin(), limits.end());
    histogram.add_packed_double(kBucket, counts.begin(), counts.end());
  });
}

void TensorBoard::on_health(const HealthRecord& record) {
  std::vector<Scalar> scalars;
  for (const HealthRecord::Row& row : record.rows) {
    std::string what = row.what;
    std::replace(what.begin(), what.end(), ' ', '_');
    const auto add = [&](const char* figure, double value) {
      scalars.emplace_back(fmt::format("health/{}/{}/{}", row.where, what, figure), value);
    };
    add("largest", row.largest);
    add("rms", row.rms);
    add("headroom_bits", row.headroom_bits);
    add("zeros", row.zeros);
    for (const auto& [format, share] : row.underflow) add(("underflow_" + format).c_str(), share);
    if (row.update.has_value()) add("update", *row.update);
    if (row.lost_update.has_value()) add("lost_update", *row.lost_update);
  }
  write_scalars(record.step, scalars);
}

void TensorBoard::on_end(const Summary&) { file_.append(); }

void TensorBoard::write_scalars(int64_t step, const std::vector<Scalar>& scalars) {
  write_summary(step, [&](protozero::pbf_writer& summary) {
    for (const auto& [tag, value] : scalars) {
      protozero::pbf_writer scalar(summary, kValue);
      scalar.add_string(kTag, tag.data(), tag.size());
      scalar.add_float(kSimpleValue, static_cast<float>(value));
    }
  });
}

void TensorBoard::write_summary(int64_t step,
                                const std::function<void(protozero::pbf_writer&)>& fill) {
  std::string event;
  protozero::pbf_writer writer(event);
  writer.add_double(kWallTime, clock_());
  writer.add_int64(kStep, step);
  {
    protozero::pbf_writer summary(writer, kSummary);
    fill(summary);
  }
  write_record(event);
}

void TensorBoard::write_record(const std::string& event) {
  const std::string length = little_endian<uint64_t>(event.size());
  file_.append(length + masked_crc(length) + event + masked_crc(event));
}

}  // namespace mezzo::report
