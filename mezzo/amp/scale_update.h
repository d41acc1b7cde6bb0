#pragma once

#include <ATen/core/Tensor.h>

#include "mezzo/amp/scaler_options.h"

namespace mezzo {

/// What the update of the scale reads and writes: 0-dim tensors on one device.
struct ScaleTensors {
  at::Tensor scale;               ///< fp32
  at::Tensor growth_tracker;      ///< int32: good steps since the scale last moved
  at::Tensor hysteresis_tracker;  ///< int32: overflows left until the scale backs off
};

/// Where the scale lies: the device asked for; if that has no index, the one of its type on which
/// the first outputs to be scaled are.
at::Device scale_device(at::Device asked, at::Device outputs);

/// The state machine of the scale, in place and on the device: nothing is read on the host, so that
/// a CUDA graph can hold it. found_inf: fp32, one element; not zero (a NaN too) is an overflow.
///
///   overflow   growth tracker = 0; hysteresis - 1; at 0 of it the scale times backoff_factor
///   good step  growth tracker + 1; at growth_interval of it the scale times growth_factor where
///              that is finite, growth tracker = 0, hysteresis refilled
///
/// The product is taken in fp64 and rounded to fp32, then clamped to [min_scale, max_scale]. The
/// rule is torch.amp's (at::_amp_update_scale_); the hysteresis is DeepSpeed's and Megatron-LM's.
void update_scale_(ScaleTensors& tensors, const at::Tensor& found_inf,
                   const GradScalerOptions& options);

/// The same out of plain tensor ops, for any hysteresis: what update_scale_ takes for a hysteresis
/// above 1, and the definition for the rest.
void update_scale_plain_(ScaleTensors& tensors, const at::Tensor& found_inf,
                         const GradScalerOptions& options);

/// 0-dim bool: whether this found_inf would lower a scale that is at its minimum already. Take it
/// before update_scale_.
at::Tensor overflows_at_floor(const ScaleTensors& tensors, const at::Tensor& found_inf,
                              const GradScalerOptions& options);

}  // namespace mezzo
