#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "mezzo/amp/grad_scaler.h"
#include "mezzo/amp/gradient_facts.h"
#include "mezzo/amp/precision.h"
#include "mezzo/kernels/cuda/stream.h"
#include "mezzo/models/language_model.h"
#include "mezzo/train/batch.h"
#include "mezzo/train/run_optimizer.h"
#include "mezzo/train/step.h"
#include "mezzo/train/step_graph.h"

namespace mezzo::train {

/// The step of mixed-precision training on a GPU, without a word from the GPU to the host: forward,
/// backward, unscaling, clipping, the optimizer's step or its being skipped, the loss scale's
/// update and the learning rate are all on the device. From the fourth step of a shape on, the
/// whole of it is one CUDA graph. The host runs ahead; it reads a result when it asks for one. Only
/// where kernels::kHasCuda. Optimizer, scaler and mode outlive it.
class DeviceStep {
 public:
  /// clip: largest global gradient norm; 0: gradients are not clipped.
  DeviceStep(models::LanguageModel model, RunOptimizer& optimizer, GradScaler& scaler,
             const PrecisionMode& mode, double clip);

  /// Enqueues one optimizer step at the learning rate `lr` on the mean loss over `batches`, which
  /// may lie on the host (the copy of pinned memory is not waited for) or on the device.
  void run(const std::vector<Batch>& batches, double lr);

  /// Steps that were enqueued and whose results were not taken.
  size_t pending() const { return results_.size(); }
  /// The result of the oldest of them: loss, norm, scale, whether it was skipped, and what its
  /// gradients held, unscaled, where their norm is not finite. Waits for that step alone.
  StepResult take();

  /// Gives back the memory that the graph computes in, which is a whole step's and nobody else's.
  /// The next step is recorded again. To be called with no step pending.
  void drop_recording() { graph_.drop(); }

  bool is_recorded() const { return graph_.is_recorded(); }
  /// Why steps run op by op; empty where they do not.
  const std::string& refusal() const { return graph_.refusal(); }

 private:
  struct Pending {
    at::Tensor values, counts;  // computed_ and counts_, pinned on the host
    kernels::cuda::Event is_copied;
  };

  void load(const std::vector<Batch>& batches, double lr);
  void compute();
  std::unique_ptr<Recording> record(const std::function<void()>& work);
  void keep_facts(const at::Tensor& norm);
  at::Tensor step_scaled();
  at::Tensor step_unscaled();

  models::LanguageModel model_;
  RunOptimizer& optimizer_;
  GradScaler& scaler_;
  const PrecisionMode& mode_;
  double clip_;
  std::vector<at::Tensor> parameters_;
  std::vector<NamedParameter> named_, with_gradient_;  // all of them; those that counts_ are of
  kernels::cuda::Stream stream_;  // of its own: the default stream cannot be recorded
  StepGraph graph_;

  // At the addresses that the graph knows.
  std::vector<Batch> batches_;
  at::Tensor computed_;  // fp32: loss, norm, scale, the next one, 1 where the step was skipped
  at::Tensor counts_;    // of gradients that are not finite: all are zeroed before anybody knows
  std::deque<Pending> results_;
};

}  // namespace mezzo::train
