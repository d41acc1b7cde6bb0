#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "mezzo/amp/grad_scaler.h"
#include "mezzo/amp/precision.h"
#include "mezzo/base/memory.h"
#include "mezzo/base/stopwatch.h"
#include "mezzo/data/sampler.h"
#include "mezzo/data/token_file.h"
#include "mezzo/models/language_model.h"
#include "mezzo/optim/schedule.h"
#include "mezzo/report/sink.h"
#include "mezzo/train/checkpoint.h"
#include "mezzo/train/checkpoint_writer.h"
#include "mezzo/train/device_step.h"
#include "mezzo/train/diagnosis_files.h"
#include "mezzo/train/divergence.h"
#include "mezzo/train/evaluate.h"
#include "mezzo/train/loss_warning.h"
#include "mezzo/train/range_warning.h"
#include "mezzo/train/run_config.h"
#include "mezzo/train/run_optimizer.h"
#include "mezzo/train/step.h"
#include "mezzo/train/step_statistics.h"

namespace mezzo::train {

/// One run: its model, optimizer, scaler and sampler, and the loop over steps.
class Trainer {
 public:
  /// Builds everything from `config`, with the weights of config.init unless the run is resumed;
  /// nothing is written yet. `tokens` and `sinks` outlive the
  /// trainer. Throws UsageError if the pieces do not fit (more tokens in the vocabulary than the
  /// model has, a corpus shorter than one window).
  Trainer(const RunConfig& config, std::filesystem::path run_dir, const data::TokenFile& tokens,
          report::Sinks& sinks);

  /// Continues where the checkpoint was written, bit for bit. Throws Error if it is damaged or of
  /// another model.
  void resume(const std::filesystem::path& checkpoint);

  /// Steps until the configured number is reached, the run diverges, or `stop` becomes true; then
  /// the step is finished and a checkpoint written. Tells the sinks all of it.
  report::Summary run(const std::atomic<bool>& stop);

  /// Steps until one is not finite for no known reason, or `stop` becomes true, and says what is
  /// wrong with it. After the configured number it looks into the last one, whatever it is.
  /// Nothing is written.
  ExaminedStep examine(const std::atomic<bool>& stop);

  /// Takes steps until `steps` are done, or `stop` becomes true. Nothing is written.
  void advance(int64_t steps, const std::atomic<bool>& stop);

  /// From now on a GPU's steps are not recorded as one graph: who listens to their ops hears each,
  /// and may read its numbers.
  void run_op_by_op() { device_step_.reset(); }

  /// Checkpoints on the way are written while the run goes on (CheckpointWriter), as they are on a
  /// GPU without being told. On a CPU the copy would be the peak of the run's memory, and writing
  /// takes the cores that train.
  void write_checkpoints_in_background() { writes_in_background_ = true; }

  /// All that a checkpoint holds, as copies.
  Checkpoint snapshot() const;
  /// Goes on from a snapshot of a run of any precision: with its weights, step, data, random
  /// numbers, loss scale and what its FP8 casts remember, the optimizer's moments at zero.
  void begin_at(const Checkpoint& snapshot);

  models::LanguageModel model() { return model_; }
  const PrecisionMode& mode() const { return mode_; }
  int64_t step() const { return step_; }
  /// What the sinks are told at the start.
  report::RunInfo info() const;

 private:
  std::vector<Batch> next_batches();
  void take_step();
  void enqueue_step();
  void finish_enqueued();
  void finish_oldest();
  void report_step(int64_t step, const StepResult& result, double lr, double step_ms);
  void look_into(const FailedStep& failed);
  ExaminedStep diagnose(const FailedStep& failed);
  ExaminedStep diagnose_update(const Checkpoint& before);
  std::string bad_weight() const;
  bool attempt(const std::string& what, const std::function<void()>& action);
  void note_overflow(int64_t step, const StepResult& result);
  void note_zero_gradients(int64_t step, const StepResult& result);
  std::string why_not_looked_into() const;
  void report_health(const Health& health, const StepResult& result);
  void warn(int64_t step, const std::vector<std::string>& warnings);
  void report_gradients(const StepStatistics::Gradients& gradients, double scale);
  void evaluate_if_needed();
  bool is_due(int64_t every) const;
  void write_checkpoint(bool in_background);
  Checkpoint state() const;
  report::Summary summary(report::Status status) const;

  const RunConfig config_;
  const std::filesystem::path run_dir_;
  const data::TokenFile& tokens_;
  report::Sinks& sinks_;
  const PrecisionMode& mode_;
  const at::Device device_;

  TensorMemoryMeter memory_;  // before the model, whose tensors it counts
  models::LanguageModel model_;
  RunOptimizer optimizer_;
  GradScaler scaler_;
  StepStatistics statistics_;
  Step train_step_;
  // On a GPU that the build has kernels for: what is not looked into while it runs. Shared, as
  // other builds know nothing of its end.
  std::shared_ptr<DeviceStep> device_step_;
  struct Enqueued {
    int64_t step;
    double lr;
  };
  std::deque<Enqueued> enqueued_;  // whose results are still to be taken
  Stopwatch since_finished_;       // the last one of them before
  optim::Schedule schedule_;
  data::Sampler sampler_;
  std::vector<Batch> eval_batches_;
  DivergenceWatch divergence_;
  LossWarning loss_warning_;
  RangeWarning range_warning_;
  std::string diverged_because_;  // if it has, at the step
  int64_t diverged_at_ = 0;
  bool writes_in_background_;
  CheckpointWriter checkpoints_;

  int64_t step_ = 0;  // done
  int64_t diagnoses_ = 0;
  double looking_ms_ = 0;  // of the step in hand, and no part of its time
  bool has_told_bad_weights_ = false;
  int64_t skipped_steps_ = 0;
  int64_t explained_skips_ = 0;
  bool has_told_overflow_ = false;  // of the last step, which was taken all the same
  bool has_told_zero_ = false;      // gradients of the last step
  std::vector<double> step_ms_;
  std::vector<double> losses_;
  std::optional<int64_t> evaluated_at_;
  std::optional<int64_t> checkpointed_at_;
  Evaluation evaluation_;
};

}  // namespace mezzo::train
