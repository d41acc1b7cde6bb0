#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "mezzo/kernels/tensor_stats/tensor_stats.h"
#include "mezzo/numerics/diagnosis.h"
#include "mezzo/numerics/op_facts.h"

namespace mezzo::numerics {

/// Which sorts of numbers that are not finite are in a tensor: bits.
using Kinds = uint8_t;
constexpr Kinds kNaN = 1;
constexpr Kinds kPositiveInf = 2;
constexpr Kinds kNegativeInf = 4;
constexpr Kinds kInfinities = kPositiveInf | kNegativeInf;

inline Kinds kinds_of(const kernels::TensorStats& stats) {
  return static_cast<Kinds>((stats.nan > 0 ? kNaN : 0) |
                            (stats.positive_inf > 0 ? kPositiveInf : 0) |
                            (stats.negative_inf > 0 ? kNegativeInf : 0));
}

/// Of the elements, 0 to 1; 0 where there are none.
inline double share_of_zeros(const kernels::TensorStats& stats) {
  return stats.numel == 0 ? 0.0
                          : static_cast<double>(stats.zeros) / static_cast<double>(stats.numel);
}

/// A tensor as an op found or left it.
struct TensorFacts {
  const void* memory = nullptr;  // identity of its storage
  at::ScalarType dtype = at::kFloat;
  std::vector<int64_t> sizes;
  kernels::TensorStats stats;
  Kinds kinds = 0;
  Kinds intended = 0;  // of these: infinities that somebody wrote on purpose, a mask's
};

/// A result that is bad although what it was made of is not.
struct Birth {
  Cause cause = Cause::kInvalid;
  size_t output = 0;  // which of the op's results
  std::vector<int64_t> element;
  double value = 0.0;
  std::optional<double> exact;
  std::vector<Operand> operands;
  std::shared_ptr<const Magnitudes> magnitudes, exact_magnitudes;  // of that result
  std::string note;
};

/// A plain number among an op's arguments that is another one in the dtype of its tensors.
struct RoundedScalar {
  size_t argument = 0;
  bool is_zero = false;  // there; else infinite
  std::string note;      // "1e-08 is 0 in fp16"
};

/// One call of an op, at its place in the step.
struct OpRecord {
  /// Its place, as a number that it has in every run of the step, whatever other ops do within
  /// themselves: which call it is of those of its sort (forward, backward, recomputed) and
  /// micro-batch, or which one of its parent's.
  uint64_t key = 0;
  uint64_t children = 0;        // that it has called
  const OpFacts* op = nullptr;  // null: code that is no op of the dispatcher, seen by its results
  int64_t parent = -1;          // the op that called this one
  Direction direction = Direction::kForward;
  bool is_recomputed = false;
  std::string module;
  std::string parameter;
  std::string node;      // that ran it, in the backward pass
  int64_t forward = -1;  // the record of the op that made the node
  int64_t micro_batch = 1;
  std::vector<TensorFacts> inputs, outputs;
  std::vector<int64_t> sources;   // records whose bad results this one read
  std::vector<size_t> externals;  // of the trace's, that it read
  bool reads_bad = false;         // beyond intended infinities
  bool is_update = false;         // reads a gradient, or writes a parameter or with one
  std::optional<Birth> birth;
  bool has_thrown = true;  // until it has come to its end
  std::optional<RoundedScalar> rounded_scalar;
  uint64_t hash = 0;          // of its results' bits, where all are finite; else 0
  bool copies_empty = false;  // what it copied nobody was seen to write: hash is not known
};

/// A tensor that was not finite before the step.
struct ExternalRecord {
  std::string name;
  Kinds kinds = 0;
  bool is_parameter = false;
  int64_t first_reader = -1;
  TensorFacts facts;
  std::vector<int64_t> element;
};

/// All that was seen of a step, in its order.
struct Trace {
  std::deque<OpRecord> records;
  std::vector<ExternalRecord> externals;
  int64_t unread = 0;  // results whose numbers nobody could look at

  OpRecord& record(int64_t i) { return records[static_cast<size_t>(i)]; }
  const OpRecord& record(int64_t i) const { return records[static_cast<size_t>(i)]; }
};

}  // namespace mezzo::numerics
