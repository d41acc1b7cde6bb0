#pragma once

#include <cstdint>

#include <ATen/core/Tensor.h>

#include "mezzo/kernels/fp8/cast.h"
#include "mezzo/kernels/fp8/scaling.h"

namespace mezzo::kernels {

/// How scales are found: see Note [FP8 scaling].
struct Fp8Scaling {
  bool is_delayed = false;  ///< by the last casts' largest numbers, or by the tensor's own
  int64_t history = 16;     ///< how many casts, for delayed scaling
  int64_t margin = 0;       ///< binades left free above the largest number
};

/// Casts one tensor of a layer, its input say, step after step.
class Fp8Caster {
 public:
  Fp8Caster(at::ScalarType dtype, const Fp8Scaling& scaling);

  /// x [rows, C] in FP8. Delayed scaling takes its first scale, when there is no history, from x
  /// itself: FP8 of gradients with a scale of 1 would be zeros. That cast makes the history, and so
  /// comes before a CUDA graph is captured. All casts are of one device.
  /// remembers: false leaves the history as it was, for the scale that the cast would have had:
  /// where nothing is trained, and where the same cast comes again.
  Fp8 cast(const at::Tensor& x, bool transposes, bool remembers = true);

  /// The x of an earlier cast again, transposed alone of use, by that cast's scale.
  Fp8 cast_again(const at::Tensor& x, const at::Tensor& scale) const;

  /// Of delayed scaling, undefined before the first cast: what a checkpoint has to keep.
  const AmaxHistory& history() const { return history_; }
  /// As if its casts had been this one's: in place where there is a history, as a CUDA graph knows
  /// its address. One that is undefined is forgotten, before a graph is captured. Throws Error
  /// where the history is of another length.
  void set_history(const AmaxHistory& history);

 private:
  at::Tensor scale_for(const at::Tensor& x, bool remembers);

  at::ScalarType dtype_;
  Fp8Scaling scaling_;
  AmaxHistory history_;
};

/// The casters of a linear layer, each with the format of its kind of tensor: gradients need
/// e5m2's range, inputs and weights e4m3's precision (arXiv 2209.05433, section 3).
struct Fp8Recipe {
  explicit Fp8Recipe(const Fp8Scaling& scaling)
      : x(at::kFloat8_e4m3fn, scaling),
        weight(at::kFloat8_e4m3fn, scaling),
        grad(at::kFloat8_e5m2, scaling) {}

  Fp8Caster x, weight, grad;
};

}  // namespace mezzo::kernels
