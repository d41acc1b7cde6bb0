#pragma once

#include <string>

#include <ATen/core/ivalue.h>

#include "mezzo/numerics/op_facts.h"

namespace mezzo::numerics {

/// What the plain numbers among an op's arguments say.
struct ScalarFacts {
  bool has_infinity = false;  ///< one is not finite: what becomes infinite by it is meant so
  std::string note;  ///< one that is 0 or infinite in the tensors' dtype: "1e-08 is 0 in fp16"
  size_t rounded_argument = 0;  ///< which one, if there is a note
};

/// Numbers are Scalars, floats, and 0-dim tensors that were made of a Scalar.
ScalarFacts scalar_facts(const OpFacts& op, c10::ArrayRef<c10::IValue> arguments);

}  // namespace mezzo::numerics
