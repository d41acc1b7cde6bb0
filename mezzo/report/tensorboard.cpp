#include "mezzo/report/tensorboard.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>

#include <fmt/format.h>
#include <protozero/pbf_writer.hpp>
#include <unistd.h>

#include "mezzo/base/check.h"
#include "mezzo/report/crc32c.h"

namespace mezzo::report {
namespace {

// Field numbers of event.proto and summary.proto.
enum EventField { kWallTime = 1, kStep = 2, kFileVersion = 3, kSummary = 5, kSessionLog = 7 };
enum SummaryField { kValue = 1 };
enum ValueField { kTag = 1, kSimpleValue = 2 };
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
  path_ = folder_ / name;
  for (int again = 1; std::filesystem::exists(path_); ++again)  // two starts within a second
    path_ = folder_ / fmt::format("{}.{}", name, again);
  out_.open(path_, std::ios::binary);
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
    if (row.update.has_value()) add("update", *row.update);
    if (row.lost_update.has_value()) add("lost_update", *row.lost_update);
  }
  write_scalars(record.step, scalars);
}

void TensorBoard::write_scalars(int64_t step, const std::vector<Scalar>& scalars) {
  std::string event;
  protozero::pbf_writer writer(event);
  writer.add_double(kWallTime, clock_());
  writer.add_int64(kStep, step);
  {
    protozero::pbf_writer summary(writer, kSummary);
    for (const auto& [tag, value] : scalars) {
      protozero::pbf_writer scalar(summary, kValue);
      scalar.add_string(kTag, tag.data(), tag.size());
      scalar.add_float(kSimpleValue, static_cast<float>(value));
    }
  }
  write_record(event);
}

void TensorBoard::write_record(const std::string& event) {
  const std::string length = little_endian<uint64_t>(event.size());
  out_ << length << masked_crc(length) << event << masked_crc(event) << std::flush;
  MEZZO_CHECK(out_.good(), path_.string(), "an event cannot be written: is the disk full?");
}

}  // namespace mezzo::report
