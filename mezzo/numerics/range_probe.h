#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>
#include <ATen/record_function.h>

#include "mezzo/numerics/magnitudes.h"
#include "mezzo/numerics/scope_log.h"

namespace mezzo::numerics {

/// What the numbers are like that the ops of one part of a model leave in one direction.
struct Range {
  Magnitudes magnitudes;
  /// How many powers of two lie between the largest number of a result and the largest of its
  /// dtype, where that is least, and that dtype.
  double headroom_bits = 0.0;
  at::ScalarType dtype = at::kFloat;

  void add(const at::Tensor& tensor);
};

/// The parts are paths of mezzo::Scope, in the order in which they first ran.
struct ModuleRanges {
  std::string module;
  std::string op = "";  ///< the outermost, "aten::linear", "aten::sum.dim_IntList": where asked for
  Range activations;    ///< results of its ops in the forward pass
  Range gradients;      ///< and of their backward ops: as they are, multiplied by the loss scale
};

/// Reads, while it lives, every result of the ops of every Scope, forward and backward, on every
/// thread: each result once, where ops call each other. What a checkpoint computes again, copies of
/// parameters in another dtype and ops outside any Scope are left out. One at a time.
///
/// It costs one read of each result, about half a training step on a CPU; when none lives, no
/// callback is enabled.
class RangeProbe {
 public:
  enum class Detail { kByModule, kByOp };
  explicit RangeProbe(Detail detail = Detail::kByModule);
  ~RangeProbe();
  RangeProbe(const RangeProbe&) = delete;
  RangeProbe& operator=(const RangeProbe&) = delete;

  /// What was seen. Throws Error with what went wrong in a callback.
  std::vector<ModuleRanges> take();
  /// Of its own, until now.
  double spent_ms() const { return spent_ms_; }

 private:
  struct Frame;
  static std::unique_ptr<at::ObserverContext> on_start(const at::RecordFunction& function);
  static void on_end(const at::RecordFunction& function, at::ObserverContext* context);

  void end(Frame& frame, const std::vector<c10::IValue>& results);
  std::string place_of(const Frame& frame) const;
  ModuleRanges& of(const std::string& place);

  Detail detail_;
  at::CallbackHandle handle_ = 0;
  ScopeLog scopes_;
  std::vector<ModuleRanges> modules_;
  std::map<std::string, size_t> index_of_;
  std::string failure_;
  double spent_ms_ = 0.0;
};

}  // namespace mezzo::numerics
