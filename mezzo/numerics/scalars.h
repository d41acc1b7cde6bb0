#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include <ATen/core/ivalue.h>

#include "mezzo/numerics/op_facts.h"
#include "mezzo/numerics/trace.h"

namespace mezzo::numerics {

/// What the plain numbers among an op's arguments say.
struct ScalarFacts {
  bool has_infinity = false;  ///< one is not finite: what becomes infinite by it is meant so
  std::optional<RoundedScalar> rounded;  ///< the first one
};

/// Numbers are Scalars, floats, and 0-dim tensors that were made of a Scalar.
ScalarFacts scalar_facts(const OpFacts& op, c10::ArrayRef<c10::IValue> arguments);

/// Such a note on an op that this record's operands were made by, one to three ops before it, with
/// the op: "1e-08 is 0 in fp16, in aten::add"; empty if there is none. An eps that is 0 is added
/// there, and missed where something is divided by the sum or by its root.
std::string rounded_scalar_before(const Trace& trace, int64_t record);

}  // namespace mezzo::numerics
