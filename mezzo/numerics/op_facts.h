#pragma once

#include <string>
#include <vector>

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/record_function.h>

namespace mezzo::numerics {

/// What an op's schema says about the tensors it is given.
struct OpFacts {
  c10::OperatorHandle handle;
  std::string name;          ///< "aten::add_"
  std::vector<bool> reads;   ///< argument by argument: what was there can matter to the result
  std::vector<bool> writes;  ///< it is changed in place
  bool is_view = false;      ///< its results share memory that is there: an input's, or a storage
  bool is_random = false;
  bool is_pointwise = false;    ///< an element of the result comes from one of each input
  bool leaves_garbage = false;  ///< at::empty and its like

  /// Of the op that is being recorded; null for what is no op of the dispatcher. Kept for good.
  static const OpFacts* of(const at::RecordFunction& function);
};

/// "exp" of "aten::exp_": without namespace and without the underscore of the in-place form.
std::string base_name(const std::string& op);

/// Whether Autocast casts what the op reads to 16 bits ("lower" in amp/cast_table.h).
bool is_lowered(const std::string& op);

/// Whether it only copies numbers, into another dtype or not.
bool is_copy(const OpFacts& op);

}  // namespace mezzo::numerics
