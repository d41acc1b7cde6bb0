#pragma once

#include <optional>

#include <ATen/core/Tensor.h>

namespace mezzo {

/// torch.amp.autocast as a scope: while it lives, each op runs in the dtype that the cast policy
/// says: matmul, linear, convolution, attention in `dtype`; losses, softmax, sums, exp, pow in
/// fp32. Chosen per op in the dispatcher: no change to the model.
///
///   {
///     mezzo::Autocast autocast(at::kCPU, at::kBFloat16);
///     loss = model->loss(tokens, targets);
///   }
///   loss.backward();  // outside the region, as in Python; inside works too
///
/// The policy is CastPolicy::mezzo() unless a CastPolicyGuard names another. A parameter is cast
/// once a region and the cast kept, until it is written to; see cast_cache.h.
///
/// Regions nest, also disabled in enabled ones and with another 16-bit type; each restores what it
/// found, on an exception too. The state belongs to the thread: a new thread begins outside any
/// region. It is libtorch's own state, so at::autocast::is_autocast_enabled() and extensions with
/// their own autocast kernels see the region.
class Autocast {
 public:
  /// dtype: at::kHalf or at::kBFloat16, any if not enabled; left out, that of the region around it,
  /// or the device's own (CPU bf16, CUDA fp16).
  /// cache_enabled: keep the casts of parameters until the outermost region ends; left out, as it
  /// is now. Throws Error for a device without autocast or another dtype.
  [[nodiscard]] explicit Autocast(c10::DeviceType device,
                                  std::optional<at::ScalarType> dtype = std::nullopt,
                                  bool enabled = true,
                                  std::optional<bool> cache_enabled = std::nullopt);
  ~Autocast();
  Autocast(const Autocast&) = delete;
  Autocast& operator=(const Autocast&) = delete;

 private:
  struct State {
    bool enabled;
    at::ScalarType dtype;
    bool cache_enabled;
  };
  State state_now() const;

  c10::DeviceType device_;
  State outer_;
  bool changes_dtype_;
};

/// torch.clear_autocast_cache(): drops this thread's kept casts, and libtorch's. Needed only for a
/// weight that is written to behind autograd's back within a region: such a write is not seen. It
/// is one through `weight.data()`, set_data() or a raw pointer, or by ATen's fused steps where they
/// are called by name (at::_fused_adamw_ and its like; Mezzo's optimizers tell of theirs).
void clear_autocast_cache();

}  // namespace mezzo
