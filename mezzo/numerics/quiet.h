#pragma once

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/grad_mode.h>
#include <ATen/record_function.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

namespace mezzo::numerics {

/// While it lives the doctor's own ops are plain: not recorded, not differentiated, not cast and
/// not changed.
class Quiet {
  at::DisableRecordFunctionGuard no_record_;
  at::NoGradGuard no_grad_;
  at::AutoDispatchBelowADInplaceOrView below_autograd_;
  c10::impl::ExcludeDispatchKeyGuard no_autocast_{
      c10::autocast_dispatch_keyset | c10::DispatchKeySet(c10::DispatchKey::DeferredInit)};
};

}  // namespace mezzo::numerics
