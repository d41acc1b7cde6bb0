#include "mezzo/amp/custom_function.h"

#include <ATen/autocast_mode.h>

#include "mezzo/base/check.h"

namespace mezzo {
namespace {

constexpr const char* kDevice = "mezzo.autocast.device";
constexpr const char* kDtype = "mezzo.autocast.dtype";
constexpr const char* kEnabled = "mezzo.autocast.enabled";
constexpr const char* kPolicy = "mezzo.autocast.policy";

struct PolicyOfForward : torch::CustomClassHolder {
  std::shared_ptr<const CastPolicy> policy = guarded_policy();  // null: none was set
};

}  // namespace

CustomFwd::CustomFwd(torch::autograd::AutogradContext* ctx, c10::DeviceType device,
                     std::optional<at::ScalarType> cast_inputs)
    : device_(device) {
  const bool is_enabled = at::autocast::is_autocast_enabled(device);
  if (is_enabled) cast_inputs_ = cast_inputs;
  if (cast_inputs_.has_value()) region_.emplace(device, std::nullopt, /*enabled=*/false);
  ctx->saved_data[kDevice] = static_cast<int64_t>(device);
  ctx->saved_data[kDtype] = at::autocast::get_autocast_dtype(device);
  ctx->saved_data[kEnabled] = is_enabled && !cast_inputs_.has_value();
  ctx->saved_data[kPolicy] = c10::IValue::make_capsule(c10::make_intrusive<PolicyOfForward>());
}

at::Tensor CustomFwd::cast(const at::Tensor& input) const {
  // Not the cast that the region keeps: forward may write into what it gets.
  const bool is_cast = cast_inputs_.has_value() && at::autocast::is_eligible(input, device_);
  return is_cast ? input.to(*cast_inputs_) : input;
}

CustomBwd::CustomBwd(torch::autograd::AutogradContext* ctx) {
  MEZZO_CHECK(ctx->saved_data.count(kDevice) == 1, "CustomBwd",
              "forward must begin with a CustomFwd on the same context");
  region_.emplace(static_cast<c10::DeviceType>(ctx->saved_data.at(kDevice).toInt()),
                  ctx->saved_data.at(kDtype).toScalarType(), ctx->saved_data.at(kEnabled).toBool());
  const auto forward = ctx->saved_data.at(kPolicy).toCapsule();
  policy_.emplace(c10::static_intrusive_pointer_cast<PolicyOfForward>(forward)->policy);
}

}  // namespace mezzo
