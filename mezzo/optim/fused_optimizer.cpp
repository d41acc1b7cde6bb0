#include "mezzo/optim/fused_optimizer.h"

#include <unordered_set>

#include <fmt/ranges.h>

#include <ATen/ops/_foreach_add.h>
#include <ATen/ops/_foreach_sub.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include "mezzo/base/check.h"
#include "mezzo/base/to_device.h"

namespace mezzo::optim::detail {
namespace {

void check_scalar(const std::string& where, const char* name, const at::Tensor& value) {
  MEZZO_CHECK(value.defined(), where, "{} must be defined", name);
  MEZZO_CHECK(value.numel() == 1 && value.scalar_type() == at::kFloat, where,
              "{} must be one fp32 number, but is {} x {}", name, value.numel(),
              c10::toString(value.scalar_type()));
}

std::string kind_of(const at::Tensor& tensor) {
  if (!tensor.defined()) return "missing";
  return fmt::format("{} [{}] with strides [{}] on {}", c10::toString(tensor.scalar_type()),
                     fmt::join(tensor.sizes(), ", "), fmt::join(tensor.strides(), ", "),
                     tensor.device().str());
}

}  // namespace

void check_options(const char* optimizer, bool are_own) {
  MEZZO_CHECK_USAGE(are_own, optimizer,
                    "a parameter group's options must be {}Options, but are another optimizer's",
                    optimizer);
}

// A kernel would refuse it only in its bucket's turn, with part of the step taken.
void check_dtypes(const char* optimizer, size_t group, const std::vector<at::Tensor>& params) {
  for (size_t i = 0; i < params.size(); ++i) {
    const at::ScalarType dtype = params[i].scalar_type();
    MEZZO_CHECK(
        dtype == at::kDouble || dtype == at::kFloat || dtype == at::kBFloat16 || dtype == at::kHalf,
        optimizer,
        "parameter {} of group {} must be fp64, fp32, bf16 or fp16, but is {}. Hint: train "
        "a complex weight as its at::view_as_real(), made complex again in forward; leave "
        "out what is not trained",
        i, group, c10::toString(dtype));
  }
}

void check_differ(const char* optimizer,
                  const std::vector<torch::optim::OptimizerParamGroup>& groups,
                  const torch::optim::OptimizerParamGroup& added) {
  std::unordered_set<const c10::TensorImpl*> seen;
  for (const auto& group : groups) {
    for (const at::Tensor& param : group.params()) seen.insert(param.unsafeGetTensorImpl());
  }
  for (const at::Tensor& param : added.params()) {
    MEZZO_CHECK(seen.insert(param.unsafeGetTensorImpl()).second, optimizer,
                "each parameter must be given once, but one of shape [{}] is given twice. Hint: "
                "parameters() of a model has those of a shared module twice; decay_groups() takes "
                "each once",
                fmt::join(param.sizes(), ", "));
  }
}

const at::Tensor& aligned_grad(const char* optimizer, const at::Tensor& param) {
  MEZZO_CHECK(param.is_non_overlapping_and_dense(), optimizer,
              "a parameter must be dense in memory, but has strides [{}] for shape [{}]. Hint: "
              "make it contiguous()",
              fmt::join(param.strides(), ", "), fmt::join(param.sizes(), ", "));
  at::Tensor& grad = param.mutable_grad();
  MEZZO_CHECK(!grad.is_sparse(), optimizer,
              "gradients must be dense, but one of shape [{}] is sparse",
              fmt::join(grad.sizes(), ", "));
  if (grad.strides() != param.strides()) {
    grad = at::empty_like(param, grad.options()).copy_(grad);
  }
  return grad;
}

void check_same_dtype(const char* optimizer, const at::Tensor& param) {
  const at::ScalarType dtype = param.grad().scalar_type();
  MEZZO_CHECK(dtype == param.scalar_type(), optimizer,
              "a gradient must be {} as its parameter, but one of shape [{}] is {}. Hint: "
              "CompactAdamW takes 16-bit weights with fp32 gradients",
              c10::toString(param.scalar_type()), fmt::join(param.sizes(), ", "),
              c10::toString(dtype));
}

ScaleOfStep scale_of_step(const char* optimizer, const std::optional<at::Tensor>& grad_scale,
                          const at::Tensor& found_inf) {
  const std::string where = std::string(optimizer) + ".scaled_step";
  check_scalar(where, "found_inf", found_inf);
  if (grad_scale) check_scalar(where, "grad_scale", *grad_scale);
  // The kernel skips at exactly 1, and the step count takes back what it is given.
  return {.grad_scale = grad_scale ? std::optional(grad_scale->reshape({})) : std::nullopt,
          .found_inf = found_inf.reshape({}).ne(0).to(at::kFloat),
          .lr = {}};
}

ScaleOfStep scale_on(at::Device device, const ScaleOfStep& scale) {
  ScaleOfStep there = scale;
  if (there.grad_scale) there.grad_scale = to_device(*there.grad_scale, device);
  if (there.found_inf) there.found_inf = to_device(*there.found_inf, device);
  return there;
}

void check_not_negative(const char* optimizer, const char* key, double value) {
  MEZZO_CHECK_USAGE(value >= 0, optimizer, "{} must be >= 0, but is {}", key, value);
}

void check_fraction(const char* optimizer, const char* key, double value) {
  MEZZO_CHECK_USAGE(value >= 0 && value < 1, optimizer, "{} must be in [0, 1), but is {}", key,
                    value);
}

void count_steps(const std::vector<at::Tensor>& steps) { at::_foreach_add_(steps, 1); }

void take_back_skipped(const std::vector<at::Tensor>& steps,
                       const std::optional<at::Tensor>& found_inf) {
  if (found_inf) {
    at::_foreach_sub_(steps, std::vector<at::Tensor>(steps.size(), *found_inf));
  }
}

void read_archive(const char* optimizer, const std::function<void()>& read) {
  try {
    read();
  } catch (const c10::Error& error) {
    MEZZO_CHECK(false, fmt::format("{}.load", optimizer), "{}", error.what_without_backtrace());
  }
}

void write_tensor(torch::serialize::OutputArchive& archive, const char* key,
                  const at::Tensor& tensor) {
  if (tensor.defined()) {
    archive.write(key, tensor);
  }
}

void read_tensor(torch::serialize::InputArchive& archive, const char* key, at::Tensor& tensor) {
  archive.try_read(key, tensor);
}

void check_read(const PlaceOfParam& place, const char* key, const at::Tensor& tensor,
                const at::Tensor& like) {
  MEZZO_CHECK(
      tensor.defined() && tensor.sizes() == like.sizes() && tensor.strides() == like.strides() &&
          tensor.scalar_type() == like.scalar_type() && tensor.device() == like.device(),
      fmt::format("{}.load", place.optimizer),
      "{} of parameter {} of group {} must be {}, but is {}. Hint: was it saved for another "
      "model, or is it loaded to another device than the model?",
      key, place.index, place.group, kind_of(like), kind_of(tensor));
}

void check_read_step(const PlaceOfParam& place, const at::Tensor& step, const at::Tensor& param) {
  check_read(place, "step", step, at::empty({}, param.options().dtype(at::kFloat)));
}

}  // namespace mezzo::optim::detail
