#include "mezzo/numerics/suspicion.h"

#include <algorithm>

namespace mezzo::numerics {
namespace {

// Of each element, where the input is broadcast.
int64_t uses_of(const TensorFacts& input, const OpRecord& record) {
  if (record.outputs.empty() || input.stats.numel == 0) return 1;
  return std::max<int64_t>(1, record.outputs.front().stats.numel / input.stats.numel);
}

bool flips_signs(const std::string& name) {
  const std::string base = base_name(name);
  return base == "neg" || base == "mul" || base == "sub" || base == "rsub" || base == "div" ||
         base == "abs";
}

}  // namespace

bool reads_non_finite(const OpRecord& record) {
  return std::any_of(record.inputs.begin(), record.inputs.end(),
                     [](const TensorFacts& input) { return (input.kinds & ~input.intended) != 0; });
}

bool judge(OpRecord& record, bool has_infinite_scalar, int64_t last_bad) {
  Kinds in = 0, out = 0;
  int64_t infinities_in = 0, infinities_out = 0;
  for (const TensorFacts& output : record.outputs) {
    out |= output.kinds;
    infinities_out += output.stats.non_finite();
  }
  const bool is_elementwise = record.op->is_pointwise || is_copy(*record.op);
  for (const TensorFacts& input : record.inputs) {
    in |= input.kinds;
    infinities_in += input.stats.non_finite() * (is_elementwise ? uses_of(input, record) : 1);
  }
  if (out == 0) return !record.reads_bad;
  if (in == 0 && has_infinite_scalar && (out & kNaN) != 0 && last_bad >= 0) {
    record.sources = {last_bad};
    record.reads_bad = true;
  }
  if (record.reads_bad) return false;
  const Kinds fresh = out & static_cast<Kinds>(~in);
  const bool is_meant =
      (fresh & kNaN) == 0 &&
      (has_infinite_scalar ||
       (infinities_out <= infinities_in && (fresh == 0 || flips_signs(record.op->name))) ||
       (fresh == 0 && !is_elementwise && !flips_signs(record.op->name)));
  if (!is_meant) return true;
  for (TensorFacts& output : record.outputs) output.intended = output.kinds;
  return false;
}

}  // namespace mezzo::numerics
