#include "mezzo/train/trainer.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include <fmt/format.h>

#include <ATen/Context.h>

#include "mezzo/amp/cast_policy.h"
#include "mezzo/amp/overflow_report.h"
#include "mezzo/base/check.h"
#include "mezzo/base/float_format.h"
#include "mezzo/base/median.h"
#include "mezzo/kernels/cuda/flavour.h"
#include "mezzo/kernels/tensor_stats/tensor_stats.h"
#include "mezzo/report/format.h"
#include "mezzo/train/device.h"
#include "mezzo/train/fp8.h"
#include "mezzo/train/initial_weights.h"
#include "mezzo/train/run_folder.h"
#include "mezzo/train/run_parts.h"
#include "mezzo/train/saved_step.h"

namespace mezzo::train {
namespace {

namespace fs = std::filesystem;

}  // namespace

Trainer::Trainer(const RunConfig& config, fs::path run_dir, const data::TokenFile& tokens,
                 report::Sinks& sinks)
    : config_(config),
      run_dir_(std::move(run_dir)),
      tokens_(tokens),
      sinks_(sinks),
      mode_(precision_mode(config.precision)),
      device_(ready_device(config.device)),
      memory_(device_),
      model_(make_model(config, mode_, device_)),
      optimizer_(model_, mode_, optimizer_options(config), config.accumulate > 1),
      scaler_(device_, scaler_options(config)),
      statistics_(memory_, model_, optimizer_),
      train_step_(model_, optimizer_, scaler_, mode_, step_options(config), &statistics_),
      schedule_(make_schedule(config)),
      sampler_(tokens.split(data::Split::train).size(), model_->config().context,
               static_cast<uint64_t>(config.seed)),
      divergence_(scaler_.is_dynamic() ? scaler_.get_min_scale() : 0.0),
      range_warning_(scaler_.is_dynamic()),
      writes_in_background_(!device_.is_cpu()),
      checkpoints_(run_dir_, config.keep_checkpoints,
                   [this](const std::string& note) { sinks_.on_note(note); }) {
  const int64_t vocab_size = model_->config().vocab_size, context = model_->config().context;
  MEZZO_CHECK_USAGE(
      tokens.vocab_size() <= vocab_size, "train",
      "the data has {} different tokens, but the model's vocabulary only {}. Hint: --vocab-size {}",
      tokens.vocab_size(), vocab_size, tokens.vocab_size());
  if (starts_from_init(config))
    optimizer_.load_weights(initial_weights(config, mode_.weights), config.init);
  for (const at::Device device : {at::Device(at::kCPU), device_}) {
    at::Generator generator = at::globalContext().defaultGenerator(device);
    generator.set_current_seed(static_cast<uint64_t>(config.seed));
  }

  if constexpr (kernels::kHasCuda) {
    if (device_.is_cuda() && !config.release_gradients && config.on_overflow != "retry")
      device_step_ = std::make_shared<DeviceStep>(model_, optimizer_, scaler_, mode_, config.clip);
  }
  if (config.diagnose > 0)
    train_step_.on_failure([this](const FailedStep& failed) { look_into(failed); });

  const data::TokenView& held_out = tokens.split(data::Split::held_out);
  const std::vector<int64_t> windows =
      data::held_out_windows(held_out.size(), context, config.eval_batches * config.batch);
  for (size_t begin = 0; begin < windows.size(); begin += static_cast<size_t>(config.batch)) {
    const size_t end = std::min(windows.size(), begin + static_cast<size_t>(config.batch));
    eval_batches_.push_back(read_batch(held_out,
                                       {windows.begin() + static_cast<std::ptrdiff_t>(begin),
                                        windows.begin() + static_cast<std::ptrdiff_t>(end)},
                                       context, device_));
  }
}

report::Summary Trainer::run(const std::atomic<bool>& stop) {
  sinks_.on_start(info());
  if (const std::string note = fp8_note(mode_, device_); !note.empty()) sinks_.on_note(note);
  const int64_t first = step_ + 1;
  while (step_ < config_.steps && !stop && diverged_because_.empty()) {
    take_step();
    if (step_ == first) {
      for (const std::string& rule : unmet_cast_rules())
        sinks_.on_note(fmt::format("cast-rules: no op of this model has met {}", rule));
    }
    if (is_due(config_.eval_every) || is_due(config_.checkpoint_every)) finish_enqueued();
    if (!diverged_because_.empty()) break;
    if (is_due(config_.eval_every)) evaluate_if_needed();
    if (is_due(config_.checkpoint_every))
      write_checkpoint(writes_in_background_ && step_ < config_.steps);
  }
  finish_enqueued();
  report::Status status = report::Status::kDone;
  if (diverged_because_.empty()) {
    if (stop && step_ < config_.steps) status = report::Status::kInterrupted;
    write_checkpoint(/*in_background=*/false);
    // No checkpoint either: there is nothing to use, and nothing to go on from.
    if (!std::isfinite(evaluation_.loss)) {
      diverged_because_ = "the held-out loss is not finite";
      diverged_at_ = step_ - divergence_.bad_in_a_row() + 1;
    }
  }
  if (!diverged_because_.empty()) {
    status = report::Status::kDiverged;
    sinks_.on_note(fmt::format("diverged at step {}: {}", diverged_at_, diverged_because_));
  }
  const report::Summary result = summary(status);
  sinks_.on_end(result);
  checkpoints_.wait();  // last, as it throws what a write came to
  return result;
}

ExaminedStep Trainer::examine(const std::atomic<bool>& stop) {
  std::optional<ExaminedStep> examined;
  train_step_.on_failure([&](const FailedStep& failed) {
    if (!examined.has_value()) examined = diagnose(failed);
  });
  const int64_t first = step_ + 1;
  sinks_.on_start(info());
  run_op_by_op();  // a step that fails is looked into while it can be
  while (step_ + 1 < config_.steps && !stop && !examined.has_value()) {
    const Checkpoint before = snapshot();
    take_step();
    if (!examined.has_value() && !bad_weight().empty()) examined = diagnose_update(before);
  }
  if (!examined.has_value()) train_step_.examine(next_batches());
  examined->first = first;
  return *examined;
}

// The run goes on whatever comes of it: a diagnosis is help, not part of the training.
void Trainer::look_into(const FailedStep& failed) {
  const int64_t step = step_ + 1;
  if (const std::string bad = bad_weight(); !bad.empty()) {
    if (!std::exchange(has_told_bad_weights_, true))
      sinks_.on_note(fmt::format(
          "step {}: {} was not finite before it: an earlier step's update left it so. Hint: mezzo "
          "doctor with this run's options, or --resume {}, names the op",
          step, bad, run_dir_.string()));
    return;
  }
  if (diagnoses_ >= config_.diagnose || !has_room_for_failure(run_dir_, step, config_.diagnose))
    return;
  ++diagnoses_;
  const Stopwatch spent;
  const TensorMemoryMeter::Aside aside(memory_);
  const fs::path folder = failure_folder(run_dir_, step);
  // First, so that it can be run again if the process does not live to the diagnosis' end.
  attempt("saving it", [&] {
    const TensorMap weights = optimizer_.weights();
    save_step(folder, {step, failed, config_, weights});
  });
  attempt("looking into it", [&] {
    const ExaminedStep examined = diagnose(failed);
    const bool is_written =
        attempt("writing its diagnosis", [&] { write_diagnosis(folder, examined); });
    std::string note = fmt::format("step {}: {}", step, numerics::summary(examined.diagnosis));
    if (is_written) note += "\nall of it: " + (folder / "diagnosis.txt").string();
    sinks_.on_note(note);
  });
  looking_ms_ += spent.ms();
}

ExaminedStep Trainer::diagnose(const FailedStep& failed) {
  numerics::Diagnosis diagnosis = numerics::diagnose(patient_of(model_, failed, mode_));
  return {step_ + 1, config_, std::move(diagnosis)};
}

// The step that was just taken, from where it began.
ExaminedStep Trainer::diagnose_update(const Checkpoint& before) {
  optimizer_.load(before.model, before.optimizer, "the step before");
  sampler_.restore(before.sampler);
  step_ = before.step;
  const double scale = before.scaler.has_value() ? before.scaler->scale : 1.0;
  FailedStep failed{next_batches(), scale, RandomState(before.rng), before.fp8};
  failed.random.restore();
  failed.update = [this, scale] { train_step_.update(scale); };
  failed.moments = optimizer_.state_tensors();
  return diagnose(failed);
}

// The first one that is not finite; "" if none is.
std::string Trainer::bad_weight() const {
  for (const auto& item : model_->named_parameters())
    if (kernels::tensor_stats(item.value().detach()).non_finite() > 0) return item.key();
  return "";
}

bool Trainer::attempt(const std::string& what, const std::function<void()>& action) {
  try {
    action();
    return true;
  } catch (const std::exception& error) {
    sinks_.on_note(fmt::format("step {}: {} failed: {}", step_ + 1, what, error.what()));
    return false;
  }
}

void Trainer::take_step() {
  const int64_t next = step_ + 1;
  const bool wants_gradients =
      (config_.eval_every > 0 && next % config_.eval_every == 0) || next == config_.steps;
  const bool wants_health = config_.watch > 0 && next % config_.watch == 0;
  if (device_step_ != nullptr && !wants_gradients && !wants_health) return enqueue_step();
  finish_enqueued();
  // The graph keeps a whole step's memory to itself, and the step that comes now needs as much.
  if (device_step_ != nullptr) device_step_->drop_recording();
  if (wants_gradients) statistics_.want_gradients();
  if (wants_health) statistics_.want_health();
  const Stopwatch spent;
  const double lr = schedule_.lr_at(step_);
  const StepResult result = train_step_.run(next_batches(), lr);
  double step_ms = spent.ms() - std::exchange(looking_ms_, 0.0);
  const std::optional<StepStatistics::Gradients> gradients = statistics_.take_gradients();
  if (gradients.has_value()) step_ms -= gradients->measuring_ms;
  const std::optional<StepStatistics::MeasuredHealth> health = statistics_.take_health();
  if (health.has_value()) step_ms -= health->measuring_ms;
  ++step_;
  report_step(step_, result, lr, step_ms);
  if (gradients.has_value()) report_gradients(*gradients, result.scale);
  if (health.has_value()) report_health(health->health, result);
}

// A GPU is given the next step before the last one's result is read: it never waits. But where the
// run shall wait for others, they have the GPU to themselves, and the wait is no step's time.
void Trainer::enqueue_step() {
  if constexpr (kernels::kHasCuda) {
    if (enqueued_.empty()) since_finished_.restart();
    const double lr = schedule_.lr_at(step_);
    const bool was_refused = !device_step_->refusal().empty();
    device_step_->run(next_batches(), lr);
    enqueued_.push_back({++step_, lr});
    if (!was_refused && !device_step_->refusal().empty()) {
      sinks_.on_note(fmt::format("from step {} on op by op, as a step is not one CUDA graph: {}",
                                 step_, device_step_->refusal()));
    }
    if (sinks_.waits_after(step_)) finish_enqueued();
    if (enqueued_.size() > 1) finish_oldest();
  }
}

void Trainer::finish_enqueued() {
  while (!enqueued_.empty()) finish_oldest();
}

void Trainer::finish_oldest() {
  if constexpr (kernels::kHasCuda) {
    StepResult result = device_step_->take();
    const double step_ms = since_finished_.restart();
    train_step_.explain(result);
    const auto [step, lr] = enqueued_.front();
    enqueued_.pop_front();
    report_step(step, result, lr, step_ms);
  }
}

void Trainer::report_step(int64_t step, const StepResult& result, double lr, double step_ms) {
  const bool is_explained = result.is_skipped && result.skip_cause != SkipCause::kUnexplained;
  skipped_steps_ += result.is_skipped ? 1 : 0;
  explained_skips_ += is_explained ? 1 : 0;
  step_ms_.push_back(step_ms);
  losses_.push_back(result.loss);
  if (std::ssize(losses_) > report::kTrainLossSteps) losses_.erase(losses_.begin());

  report::StepRecord record;
  record.step = step;
  record.loss = result.loss;
  record.lr = lr;
  record.grad_norm = result.grad_norm;
  record.scale = result.scale;
  record.skipped = result.is_skipped;
  record.explained = is_explained;
  record.retries = static_cast<int>(result.retries);
  record.step_ms = step_ms;
  record.tokens_per_s = 1e3 * static_cast<double>(info().tokens_per_step) / step_ms;
  record.peak_tensor_bytes = memory_.peak_bytes();
  sinks_.on_step(record);
  if (config_.watch > 0) warn(step, loss_warning_.observe(step, result.loss, result.grad_norm));
  note_overflow(step, result);
  note_zero_gradients(step, result);
  if (!diverged_because_.empty()) return;  // a GPU was a step ahead
  diverged_because_ = divergence_.observe(result);
  diverged_at_ = step - divergence_.bad_in_a_row() + 1;
}

// An overflow that ends as a 0, as of a mean square in a norm, leaves no number that is not finite.
void Trainer::note_zero_gradients(int64_t step, const StepResult& result) {
  const bool is_zero = result.grad_norm == 0.0 && !result.is_skipped;
  if (is_zero && !has_told_zero_)
    warn(step, {"every gradient is zero: nothing is learned. Hint: --watch 1 shows where the "
                "activations are zero, or too large"});
  has_told_zero_ = is_zero;
}

// A skipped step is told of each time. One that was taken with gradients that are not finite is the
// first of many: it alone is.
void Trainer::note_overflow(int64_t step, const StepResult& result) {
  std::string name = name_overflow(result.gradients);
  const bool is_told = result.is_skipped || (!name.empty() && !has_told_overflow_);
  has_told_overflow_ = !result.is_skipped && !name.empty();
  if (!is_told) return;
  std::string remark = describe(result.skip_cause);
  if (remark.empty()) {
    remark = overflow_origin(result.gradients, std::isfinite(result.loss));
    if (const std::string why = why_not_looked_into(); !why.empty())
      remark += fmt::format("{}{}. Hint: mezzo doctor --resume {}", remark.empty() ? "" : "; ", why,
                            run_dir_.string());
  }
  if (result.is_skipped) {
    if (name.empty()) name = "overflow";  // on another rank
    sinks_.on_note(report::format_skip_note(step, config_.steps, name, result.scale,
                                            result.next_scale, remark));
  } else {
    sinks_.on_note(report::format_overflow_note(step, config_.steps, name, remark));
  }
}

// A failed step; empty where it is, unless --diagnose is 0.
std::string Trainer::why_not_looked_into() const {
  if (config_.release_gradients) return "with its gradients released it cannot be run again here";
  if (device_step_ != nullptr) return "it is known when the GPU is beyond it";
  return "";
}

void Trainer::report_gradients(const StepStatistics::Gradients& gradients, double scale) {
  const numerics::Magnitudes& magnitudes = gradients.magnitudes;
  const bool is_fp32 = mode_.compute() == at::kFloat;
  report::GradientRecord record;
  record.step = step_;
  record.values = magnitudes.values;
  record.zeros = magnitudes.zeros;
  record.zeros_in_16_bits =
      is_fp32 ? magnitudes.zeros : magnitudes.zeros_in(float_format(mode_.compute()), scale);
  record.nonfinite = magnitudes.nonfinite;
  record.first_exponent = numerics::Magnitudes::kFirstExponent;
  record.counts.assign(magnitudes.counts.begin(), magnitudes.counts.end());
  sinks_.on_gradients(record);
}

void Trainer::report_health(const Health& health, const StepResult& result) {
  sinks_.on_health(health_record(step_, health, result.scale, result.is_skipped));
  if (!result.is_skipped) warn(step_, range_warning_.observe(step_, health));
}

void Trainer::warn(int64_t step, const std::vector<std::string>& warnings) {
  for (const std::string& warning : warnings)
    sinks_.on_note(fmt::format("step {}: {}", step, warning));
}

std::vector<Batch> Trainer::next_batches() {
  std::vector<Batch> batches;
  for (int64_t micro = 0; micro < config_.accumulate; ++micro) {
    std::vector<int64_t> offsets(static_cast<size_t>(config_.batch));
    for (int64_t& offset : offsets) offset = sampler_.next();
    batches.push_back(
        read_batch(tokens_.split(data::Split::train), offsets, model_->config().context, device_));
  }
  return batches;
}

bool Trainer::is_due(int64_t every) const { return every > 0 && step_ % every == 0; }

void Trainer::evaluate_if_needed() {
  if (evaluated_at_ == step_) return;
  evaluation_ = evaluate(model_, mode_, eval_batches_);
  evaluated_at_ = step_;
  sinks_.on_eval({step_, evaluation_.loss, evaluation_.accuracy});
}

void Trainer::advance(int64_t steps, const std::atomic<bool>& stop) {
  while (step_ < steps && !stop && diverged_because_.empty()) take_step();
  finish_enqueued();
}

report::RunInfo Trainer::info() const {
  report::RunInfo info;
  info.model = model_name(config_);
  info.precision = config_.precision;
  info.device = config_.device;
  info.run_dir = run_dir_.string();
  info.parameters = models::parameter_count(model_->config());
  info.steps_total = config_.steps;
  info.start_step = step_;
  info.tokens_per_step = config_.batch * config_.accumulate * model_->config().context;
  info.settings = settings_of(config_);
  return info;
}

report::Summary Trainer::summary(report::Status status) const {
  report::Summary result;
  const report::RunInfo about = info();
  result.status = status;
  result.model = about.model;
  result.precision = about.precision;
  result.device = about.device;
  result.parameters = about.parameters;
  result.steps = step_;
  result.tokens = step_ * about.tokens_per_step;
  result.median_step_ms = median(step_ms_);
  if (!step_ms_.empty()) {
    result.tokens_per_s = 1e3 * static_cast<double>(about.tokens_per_step) / result.median_step_ms;
  }
  result.peak_tensor_bytes = memory_.peak_bytes();
  result.peak_kinds = statistics_.peak_kinds();
  result.peak_rss_bytes = peak_rss_bytes();
  result.train_loss =
      std::accumulate(losses_.begin(), losses_.end(), 0.0) / static_cast<double>(losses_.size());
  if (evaluated_at_.has_value()) {
    result.val_loss = evaluation_.loss;
    result.val_accuracy = evaluation_.accuracy;
  }
  result.skipped_steps = skipped_steps_;
  result.explained_skips = explained_skips_;
  result.final_scale = scaler_.get_scale();
  if (status == report::Status::kDiverged) result.diverged_at = diverged_at_;
  return result;
}

}  // namespace mezzo::train
