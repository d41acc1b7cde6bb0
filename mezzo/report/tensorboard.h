#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <protozero/pbf_writer.hpp>

#include "mezzo/report/appended_file.h"
#include "mezzo/report/sink.h"

namespace mezzo::report {

/// An event file in the run's folder, events.out.tfevents.SECONDS.HOST, for
/// `tensorboard --logdir`: the scalars train/*, val/*, perf/*, memory/* and health/* by step, and
/// the histogram train/gradients_log2. Each event is handed to the system at once, or when a full
/// disk has room again. A resumed run begins another file, which takes the place of the earlier
/// one's events after the checkpoint.
///
/// Format: TensorFlow's Event and Summary messages (event.proto, summary.proto) as TFRecords: an
/// 8-byte length, its masked CRC-32C, the message, the message's masked CRC-32C.
class TensorBoard : public Sink {
 public:
  /// clock: seconds since 1970; left out, the system's.
  explicit TensorBoard(std::filesystem::path folder, std::function<double()> clock = nullptr);

  std::string name() const override { return "the TensorBoard file"; }
  /// These throw Error, naming the path, if the file cannot be written now.
  void on_start(const RunInfo& info) override;
  void on_step(const StepRecord& record) override;
  void on_eval(const EvalRecord& record) override;
  /// A histogram of log2 |gradient|; zeros and what is not finite are left out.
  void on_gradients(const GradientRecord& record) override;
  void on_health(const HealthRecord& record) override;
  void on_end(const Summary& summary) override;

 private:
  using Scalar = std::pair<std::string, double>;

  void write_scalars(int64_t step, const std::vector<Scalar>& scalars);
  void write_summary(int64_t step, const std::function<void(protozero::pbf_writer&)>& fill);
  void write_record(const std::string& event);

  std::filesystem::path folder_;
  std::function<double()> clock_;
  AppendedFile file_;
};

}  // namespace mezzo::report
