#include "mezzo/optim/gradient_release.h"

#include <memory>
#include <utility>

#include <fmt/ranges.h>

#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/variable.h>

#include "mezzo/base/check.h"

namespace mezzo::optim {
namespace {

class StepAndFree : public torch::autograd::PostAccumulateGradHook {
 public:
  StepAndFree(CompactAdamW& optimizer, GradientRelease::OnGradient on_gradient)
      : optimizer_(optimizer), on_gradient_(std::move(on_gradient)) {}
  void operator()(const at::Tensor& param) override {
    if (on_gradient_ != nullptr) on_gradient_(param);
    optimizer_.step_one(param);
    param.mutable_grad().reset();
  }

 private:
  CompactAdamW& optimizer_;
  GradientRelease::OnGradient on_gradient_;
};

}  // namespace

void check_gradient_release(const GradientUse& use) {
  MEZZO_CHECK_USAGE(!use.clips, "gradient release",
                    "clipping must be off, but is on: the norm of all gradients is known only "
                    "when the first are gone");
  MEZZO_CHECK_USAGE(use.accumulate == 1, "gradient release",
                    "a step must be of one backward pass, but is of {}: a released gradient "
                    "cannot be added to",
                    use.accumulate);
  MEZZO_CHECK_USAGE(!use.is_loss_scaled, "gradient release",
                    "the loss must not be scaled, but is: a step that overflows could not be "
                    "skipped once it has begun. Hint: bf16 needs no loss scale");
}

GradientRelease::GradientRelease(CompactAdamW& optimizer, const GradientUse& use,
                                 const OnGradient& on_gradient) {
  check_gradient_release(use);
  for (const auto& group : optimizer.param_groups()) {
    for (const at::Tensor& param : group.params()) {
      MEZZO_CHECK(torch::autograd::impl::post_acc_grad_hooks(param) == nullptr, "GradientRelease",
                  "a parameter must have no hook for its gradient yet, but one of shape [{}] has",
                  fmt::join(param.sizes(), ", "));
      params_.push_back(param);
    }
  }
  for (const at::Tensor& param : params_) {
    torch::autograd::impl::set_post_acc_grad_hooks(
        param, std::make_unique<StepAndFree>(optimizer, on_gradient));
  }
}

GradientRelease::~GradientRelease() {
  for (const at::Tensor& param : params_) {
    torch::autograd::impl::set_post_acc_grad_hooks(param, nullptr);
  }
}

}  // namespace mezzo::optim
