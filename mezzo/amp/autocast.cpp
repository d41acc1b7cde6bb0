#include "mezzo/amp/autocast.h"

#include <ATen/autocast_mode.h>

#include "mezzo/amp/cast_cache.h"
#include "mezzo/amp/cast_kernel.h"
#include "mezzo/base/check.h"

namespace mezzo {

// Note [Two 16-bit types and libtorch's cast cache]
// Mezzo's kernels keep their casts in cast_cache.h. An extension's own autocast kernels use
// libtorch's cache, which is keyed by the tensor alone: a bf16 region inside an fp16 one would be
// handed fp16 weights. So a region whose dtype differs from the one around it, be either disabled,
// empties that cache when it begins and when it ends. Emptying is always safe: autograd keeps alive
// the casts that it needs.

Autocast::Autocast(c10::DeviceType device, std::optional<at::ScalarType> dtype, bool enabled,
                   std::optional<bool> cache_enabled)
    : device_(device), outer_{}, changes_dtype_(false) {
  MEZZO_CHECK(at::autocast::is_autocast_available(device), "Autocast", "device {} has no autocast",
              c10::DeviceTypeName(device, true));
  install_cast_kernels();
  outer_ = state_now();
  const at::ScalarType inner = dtype.value_or(outer_.dtype);
  MEZZO_CHECK(!enabled || inner == at::kHalf || inner == at::kBFloat16, "Autocast",
              "dtype must be Half (fp16) or BFloat16, but is {}. Hint: fp32 is Autocast with "
              "enabled = false",
              c10::toString(inner));
  changes_dtype_ = inner != outer_.dtype;
  if (changes_dtype_) at::autocast::clear_cache();
  at::autocast::set_autocast_enabled(device_, enabled);
  at::autocast::set_autocast_dtype(device_, inner);
  at::autocast::set_autocast_cache_enabled(cache_enabled.value_or(outer_.cache_enabled));
  at::autocast::increment_nesting();
  enter_cast_region();
}

Autocast::~Autocast() {
  if (leave_cast_region()) clear_cast_cache();
  const bool is_outermost = at::autocast::decrement_nesting() == 0;
  if (is_outermost || changes_dtype_) at::autocast::clear_cache();
  at::autocast::set_autocast_enabled(device_, outer_.enabled);
  at::autocast::set_autocast_dtype(device_, outer_.dtype);
  at::autocast::set_autocast_cache_enabled(outer_.cache_enabled);
}

Autocast::State Autocast::state_now() const {
  return {at::autocast::is_autocast_enabled(device_), at::autocast::get_autocast_dtype(device_),
          at::autocast::is_autocast_cache_enabled()};
}

void clear_autocast_cache() {
  clear_cast_cache();
  at::autocast::clear_cache();
}

}  // namespace mezzo
