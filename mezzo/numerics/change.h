#pragma once

#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>

#include <c10/core/impl/LocalDispatchKeySet.h>

#include "mezzo/numerics/trace.h"

namespace mezzo::numerics {

/// What is done otherwise when a step is run again. Ops are named by their place in the trace of
/// the step as it was.
struct Change {
  at::ScalarType type = at::kFloat;  ///< what 16-bit tensors become
  bool everywhere = false;           ///< every op in `type`
  std::optional<std::string> scope;  ///< the forward ops within this path in `type`
  std::set<int64_t> ops;             ///< these, and what reads their results until these fit again
  std::set<int64_t> guards;          ///< inputs of these are kept in the op's domain
  std::map<int64_t, std::pair<size_t, double>> scalars;  ///< argument and new value
  std::set<int64_t> scaled;  ///< their first input (or, of factories, their result) ...
  std::set<int64_t> zeroed;  ///< results of these factories are filled with 0
  double factor = 1.0;       ///< ... is multiplied by this
};

// Note [Changing ops as they run]
// A fallback for every op on a dispatch key above Autograd and Autocast sees each call first, and
// may cast its arguments: autograd then records the casts, so that the op's backward pass runs in
// the other dtype too. The key, DeferredInit, is torchdistX's; if that is loaded we throw. The key
// is included by a guard, on the thread of the step, and autograd carries it to its own threads;
// without the guard no call ever comes here.

/// While it lives, calls on this thread are changed. Needs a Recorder that is recording, which says
/// which call is which.
class ChangeGuard {
 public:
  /// before: the trace of the step as it was. Both must outlive the guard.
  ChangeGuard(const Change& change, const Trace& before);
  ~ChangeGuard();
  ChangeGuard(const ChangeGuard&) = delete;
  ChangeGuard& operator=(const ChangeGuard&) = delete;

  /// Forward ops beyond Change::ops that ran in its type, as what they read did not fit another.
  const std::set<int64_t>& followers() const;

 private:
  std::unique_ptr<c10::impl::IncludeDispatchKeyGuard> include_;
  at::ScalarType autocast_cpu_, autocast_cuda_;  // what it casts to on this thread
};

}  // namespace mezzo::numerics
