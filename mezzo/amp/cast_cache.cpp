#include "mezzo/amp/cast_cache.h"

#include <map>
#include <utility>

#include <ATen/CachedTensorUtils.h>
#include <ATen/autocast_mode.h>
#include <ATen/core/grad_mode.h>
#include <c10/core/InferenceMode.h>

#include "mezzo/amp/cast_kernel.h"  // is_in_cast_region

namespace mezzo {
namespace {

struct Kept {
  c10::weak_intrusive_ptr<c10::TensorImpl> source;  // another tensor may come to lie at its address
  int64_t version;                                  // of the source when it was cast
  at::Tensor cast;
};

using Cache = std::map<std::pair<const c10::TensorImpl*, at::ScalarType>, Kept>;

Cache& cache() {
  thread_local Cache kept;
  return kept;
}

// Only within a region of Mezzo's, whose end drops it: a kept cast keeps its parameter alive. A
// tensor made in inference mode has no version; one that a CUDA graph keeps in place changes
// without a new one.
bool can_be_kept(const at::Tensor& tensor, at::ScalarType dtype, c10::DeviceType device) {
  return is_in_cast_region() && at::autocast::is_autocast_cache_enabled() &&
         !c10::InferenceMode::is_enabled() && !tensor.is_inference() &&
         tensor.scalar_type() == at::kFloat && dtype == at::autocast::get_autocast_dtype(device) &&
         tensor.requires_grad() && tensor.is_leaf() && !tensor.is_view() &&
         !at::caching::is_cached_tensor(tensor);
}

}  // namespace

at::Tensor cast_for_autocast(const at::Tensor& tensor, at::ScalarType dtype,
                             c10::DeviceType device) {
  if (!at::autocast::is_eligible(tensor, device) || tensor.scalar_type() == dtype) return tensor;
  if (!can_be_kept(tensor, dtype, device)) return tensor.to(dtype);
  const int64_t version = tensor._version();
  const auto key = std::make_pair(tensor.unsafeGetTensorImpl(), dtype);
  const auto found = cache().find(key);
  if (found != cache().end() && found->second.version == version &&
      !found->second.source.expired()) {
    return found->second.cast;
  }
  // Under no_grad, too, the cast is tied to its parameter: a later use in this region may need it.
  const at::AutoGradMode with_grad(true);
  at::Tensor cast = tensor.to(dtype);
  // Below autograd, as in a custom op's kernel, it is not: later uses would get no gradient.
  if (!cast.requires_grad()) return cast;
  cache().insert_or_assign(
      key, Kept{c10::weak_intrusive_ptr<c10::TensorImpl>(tensor.getIntrusivePtr()), version, cast});
  return cast;
}

void clear_cast_cache() { cache().clear(); }

}  // namespace mezzo
