#include "mezzo/train/device_step.h"

#include <cmath>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <ATen/ops/empty.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include "mezzo/base/check.h"
#include "mezzo/base/float_format.h"
#include "mezzo/kernels/cuda/graph.h"
#include "mezzo/kernels/cuda/pinned.h"
#include "mezzo/kernels/grad_check/grad_check.h"
#include "mezzo/optim/clip.h"
#include "mezzo/train/forward_backward.h"

namespace mezzo::train {
namespace {

class RecordedGraph : public Recording {
 public:
  explicit RecordedGraph(const std::function<void()>& work) { graph_.capture(work); }
  void launch() override { graph_.replay(); }

 private:
  kernels::cuda::Graph graph_;
};

// Enqueued, not waited for.
at::Tensor copy_to_host(const at::Tensor& values) {
  at::Tensor copy = kernels::cuda::pinned_like(values);
  return copy.copy_(values, /*non_blocking=*/true);
}

std::string shape_of(const std::vector<Batch>& batches) {
  std::string shape;
  for (const Batch& batch : batches)
    shape += fmt::format("{} ", fmt::join(batch.tokens.sizes(), "x"));
  return shape;
}

}  // namespace

DeviceStep::DeviceStep(models::LanguageModel model, RunOptimizer& optimizer, GradScaler& scaler,
                       const PrecisionMode& mode, double clip)
    : model_(model),
      optimizer_(optimizer),
      scaler_(scaler),
      mode_(mode),
      clip_(clip),
      parameters_(model->parameters()),
      named_(model->named_parameters().pairs()),
      stream_(parameters_.front().device()),
      graph_([this](const std::function<void()>& work) { return record(work); }) {
  const at::Device device = parameters_.front().device();
  computed_ = at::zeros({5}, at::TensorOptions(at::kFloat).device(device));
  counts_ = kernels::cuda::make_counts(static_cast<int64_t>(named_.size()), device);
  optimizer_.keep_lr_on_device();
}

void DeviceStep::run(const std::vector<Batch>& batches, double lr) {
  stream_.wait_for_current();
  stream_.run([&] {
    load(batches, lr);
    graph_.run(shape_of(batches), [this] { compute(); });
    Pending& pending = results_.emplace_back();
    pending.values = copy_to_host(computed_);
    pending.counts = copy_to_host(counts_);
    pending.is_copied.record();
  });
  stream_.let_current_wait();
}

StepResult DeviceStep::take() {
  MEZZO_CHECK(!results_.empty(), "DeviceStep.take", "every step's result has been taken");
  const Pending pending = std::move(results_.front());
  results_.pop_front();
  pending.is_copied.wait();
  const float* values = pending.values.const_data_ptr<float>();
  StepResult result;
  result.loss = values[0];
  result.grad_norm = values[1];
  result.scale = values[2];
  result.next_scale = values[3];
  result.is_skipped = values[4] != 0.0f;
  if (std::isfinite(result.grad_norm)) return result;
  for (size_t i = 0; i < with_gradient_.size(); ++i) {
    const auto& [name, parameter] = with_gradient_[i];
    result.gradients.push_back(
        {name, kernels::cuda::facts_of(pending.counts, i, parameter.numel())});
  }
  return result;
}

void DeviceStep::load(const std::vector<Batch>& batches, double lr) {
  const at::NoGradGuard no_grad;
  optimizer_.set_lr(lr);
  batches_.resize(batches.size());
  for (size_t i = 0; i < batches.size(); ++i) {
    const auto load_into = [&](at::Tensor& own, const at::Tensor& given) {
      if (!own.defined() || own.sizes() != given.sizes())
        own = at::empty(given.sizes(), computed_.options().dtype(given.scalar_type()));
      own.copy_(given, /*non_blocking=*/true);
    };
    load_into(batches_[i].tokens, batches[i].tokens);
    load_into(batches_[i].targets, batches[i].targets);
  }
}

void DeviceStep::compute() {
  const at::Tensor loss = forward_backward(
      model_, mode_, batches_, [&](const at::Tensor& part) { scaler_.scale(part).backward(); });
  const at::Tensor rest = scaler_.is_enabled() ? step_scaled() : step_unscaled();
  computed_.select(0, 0).copy_(loss);
  computed_.slice(0, 1).copy_(rest);
  optimizer_.optimizer().zero_grad();
}

// A recording that breaks off leaves gradients that were never computed, and a scaler that has
// heard of them.
std::unique_ptr<Recording> DeviceStep::record(const std::function<void()>& work) {
  const GradScaler before = scaler_;
  try {
    return std::make_unique<RecordedGraph>(work);
  } catch (...) {
    scaler_ = before;
    optimizer_.optimizer().zero_grad();
    throw;
  }
}

// Before clipping, which makes NaNs of all gradients where one is not finite.
void DeviceStep::keep_facts(const at::Tensor& norm) {
  std::vector<at::Tensor> grads;
  with_gradient_.clear();
  for (const NamedParameter& parameter : named_) {
    if (!parameter.second.grad().defined()) continue;
    with_gradient_.push_back(parameter);
    grads.push_back(parameter.second.grad());
  }
  const double smallest_normal = float_format(at::kHalf).smallest_normal;
  kernels::cuda::count_if_not_finite(grads, norm, smallest_normal, counts_);
}

// The clipping factor is folded into the optimizer's own pass.
at::Tensor DeviceStep::step_unscaled() {
  const at::Tensor norm = optim::grad_norm(parameters_), zero = at::zeros_like(norm);
  keep_facts(norm);
  std::optional<at::Tensor> divisor;
  if (clip_ > 0.0) divisor = (norm / clip_).clamp_min(1.0);
  optimizer_.scaled_step().scaled_step(divisor, zero);
  const at::Tensor scale = zero + 1.0;
  return at::stack({norm, scale, scale, zero});
}

at::Tensor DeviceStep::step_scaled() {
  torch::optim::Optimizer& optimizer = optimizer_.optimizer();
  const at::Tensor scale = scaler_.scale_tensor().clone();
  scaler_.unscale_(optimizer);
  const at::Tensor found_inf = scaler_.found_inf_tensor(optimizer);
  const at::Tensor norm = optim::grad_norm(parameters_);
  keep_facts(norm);
  if (clip_ > 0.0) optim::clip_to_norm_(parameters_, norm, clip_);
  scaler_.step(optimizer);
  scaler_.update();
  const at::Tensor& next = scaler_.scale_tensor();
  return at::stack({norm, scale.reshape({}), next.reshape({}), found_inf.reshape({})});
}

}  // namespace mezzo::train
