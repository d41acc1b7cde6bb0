#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "mezzo/base/bytes_by_kind.h"

namespace mezzo::report {

/// What is known before the first step.
struct RunInfo {
  std::string model;
  std::string precision;
  std::string device;
  std::string run_dir;  // empty: nothing is written
  int64_t parameters = 0;
  int64_t steps_total = 0;
  int64_t start_step =
      0;  // steps done before this start: 0, or those of the checkpoint resumed from
  int64_t tokens_per_step = 0;
  std::vector<std::pair<std::string, std::string>> settings;  // name, value: the table at start
};

/// One training step that is over. The first step of a run is 1.
struct StepRecord {
  int64_t step = 0;
  double loss = 0;         // nats per token, of this step's tokens, not scaled
  double lr = 0;           // the learning rate it used
  double grad_norm = 0;    // global, unscaled, before clipping; may be inf or nan on a skipped step
  double scale = 1;        // the loss scale it used; 1 where the loss is not scaled
  bool skipped = false;    // an overflow: the weights have not moved
  bool explained = false;  // skipped, and the search for the loss scale is why: no alarm
  int retries = 0;         // how often it was repeated at a lower scale
  double step_ms = 0;
  double tokens_per_s = 0;
  int64_t peak_tensor_bytes = 0;  // since the run began
};

/// How large the gradients of a step were, unscaled and before clipping.
struct GradientRecord {
  int64_t step = 0;
  int64_t values = 0;            // how many numbers
  int64_t zeros = 0;             // of them exactly 0
  int64_t zeros_in_16_bits = 0;  // would be 0 in the mode's 16-bit type at the scale of the step
  int64_t nonfinite = 0;
  int first_exponent = 0;
  // [i]: how many have 2^(first_exponent + i) <= |value| < 2^(first_exponent + i + 1)
  std::vector<int64_t> counts = {};
};

/// How near a step's numbers were to what their dtypes cannot hold.
struct HealthRecord {
  struct Row {
    std::string where;  // a part of the model, or a parameter
    std::string what;   // activations, gradients; weights, weight gradients
    std::string dtype;  // fp16 ...: of the result that is nearest to its largest number
    int64_t values = 0;
    int64_t nonfinite = 0;
    double largest = 0;  // |x| of the finite ones
    double rms = 0;
    double headroom_bits = 0;  // log2 of the dtype's largest number over `largest`
    double zeros = 0;          // share
    // By format the share that is not zero and would be in it.
    std::vector<std::pair<std::string, double>> underflow;
    std::optional<double> update;       // of weights: rms of the step over their own
    std::optional<double> lost_update;  // share of those with a gradient that have not moved
  };
  int64_t step = 0;
  double scale = 1;
  std::vector<Row> rows;
};

/// The model's quality on held-out text after `step` steps.
struct EvalRecord {
  int64_t step = 0;
  double val_loss = 0;      // nats per token
  double val_accuracy = 0;  // share of next tokens guessed right, 0 to 1
};

enum class Status { kDone, kInterrupted, kDiverged };

/// How many steps the training loss of a summary is the mean of; fewer if fewer were taken.
constexpr int64_t kTrainLossSteps = 50;

/// What a run came to.
struct Summary {
  Status status = Status::kDone;
  std::string model;
  std::string precision;
  std::string device;
  int64_t parameters = 0;
  int64_t steps = 0;   // the last step done
  int64_t tokens = 0;  // trained on
  double median_step_ms = 0;
  double tokens_per_s = 0;
  int64_t peak_tensor_bytes = 0;
  std::optional<BytesByKind> peak_kinds;  // absent: not known on this device
  int64_t peak_rss_bytes = 0;
  double train_loss = 0;               // mean over the last kTrainLossSteps
  std::optional<double> val_loss;      // absent: never evaluated
  std::optional<double> val_accuracy;  // 0 to 1
  int64_t skipped_steps = 0;
  int64_t explained_skips = 0;  // of them; the search for the loss scale is why
  double final_scale = 1;
  std::optional<int64_t> diverged_at;  // the first bad step, if status is kDiverged
};

}  // namespace mezzo::report
