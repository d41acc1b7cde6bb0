#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <c10/core/ScalarType.h>

#include "mezzo/numerics/magnitudes.h"

namespace mezzo::numerics {

/// When in a step an op ran.
enum class Direction { kForward, kBackward, kOptimizer };

/// Why a result is not what it should be.
enum class Cause {
  kOverflow,        ///< exact, it would be finite: it is beyond the dtype's largest number
  kInnerOverflow,   ///< exact, it would fit: something inside the op was beyond the dtype's range
  kDivisionByZero,  ///< a pole: x / 0, log(0), rsqrt(0)
  kInvalid,         ///< undefined: 0 / 0, 0 * Inf, Inf - Inf, sqrt and log of negative numbers
  kEmptyReduction,  ///< a mean over nothing: no element, or none that counts
  kMaskedRow,       ///< a softmax over a row of which every entry is masked with -Inf
  kMaskedChoice,    ///< an entry that is masked with an infinity was picked, by a label
  kUnderflow,       ///< numbers that are not zero were rounded to zero, nearly all of them
  kLostUpdate,      ///< an update so small beside its parameter that rounding undid it
  kCollidingIntegers,  ///< different integers became one number: bf16 has all only up to 256
  kExternal,           ///< it was not finite before the step: a parameter, a buffer, the batch
  kUninitialized,      ///< memory of at::empty was read before anything was written there
  kUnseenKernel,       ///< written by code that is no op of the dispatcher
  kError,              ///< an op threw
};

/// "overflow", "division by zero", ...
std::string to_string(Cause cause);
/// "forward", "backward", "optimizer"
std::string to_string(Direction direction);

/// A tensor that an op read.
struct Operand {
  std::string name;  ///< of a parameter, buffer or input that was named, else "input 0"
  at::ScalarType dtype;
  std::vector<int64_t> sizes;
  double largest = 0.0;         ///< |x| of its finite elements
  std::optional<double> value;  ///< that went into the first bad element, where that is one number
  std::shared_ptr<const Magnitudes> magnitudes = nullptr;  ///< of all of it
};

/// An op that a bad number came through.
struct Link {
  std::string op;
  std::string module;
  Direction direction = Direction::kForward;
  at::ScalarType dtype = at::kFloat;  ///< of its bad result, as what follows
  std::vector<int64_t> sizes;
  double largest = 0.0;  ///< |x| of the finite elements
  int64_t values = 0, nonfinite = 0;
};

/// Where something went wrong, and how it went on.
struct Finding {
  Cause cause = Cause::kInvalid;
  std::string op;                  ///< the outermost: "aten::linear"
  std::vector<std::string> inner;  ///< from that one inwards to where it was born: "aten::addmm"
  Direction direction = Direction::kForward;
  std::string module;      ///< path of mezzo::Scope (of the forward op, in the backward pass)
  std::string parameter;   ///< the last named parameter that was read until then: where no Scope is
  std::string node;        ///< in the backward pass: "MmBackward0"
  std::string forward_op;  ///< and the op that made it: "aten::mm"
  bool is_recomputed = false;  ///< in a forward pass run again by a checkpoint
  int64_t micro_batch = 1;     ///< of a step that accumulates
  std::string external;        ///< kExternal: the tensor's name; op is the first that read it
  /// No parameter, gradient or loss became non-finite, but they are wrong.
  bool is_swallowed = false;

  at::ScalarType dtype = at::kFloat;  ///< of the bad result
  std::vector<int64_t> sizes;
  std::vector<int64_t> element;  ///< index of the first bad one
  double value = 0.0;            ///< that one
  std::optional<double> exact;   ///< that one computed in fp64 from the same inputs
  int64_t bad_elements = 0;
  std::optional<int64_t> sample;  ///< of the batch that it belongs to
  std::vector<Operand> operands;

  std::shared_ptr<const Magnitudes> magnitudes;        ///< of the bad result
  std::shared_ptr<const Magnitudes> exact_magnitudes;  ///< of the result computed in fp64

  std::vector<Link> way;           ///< the op itself, and those that passed its bad numbers on
  std::vector<std::string> sinks;  ///< where that ended: "loss nan", ...
  std::vector<std::string> chain;  ///< both in few words, without the op itself
  std::string note;                ///< what else is known: a scalar that the dtype cannot hold
  int64_t alike = 0;               ///< further places of the same op, cause and direction
};

/// A change of the step, tried on the step itself.
struct Remedy {
  /// Loss and gradients are finite, the loss is that of the step in fp32, no gradient is lost, and
  /// where an overflow is still swallowed the gradients are fp32's too.
  bool is_proved = false;
  std::string change;   ///< in words: "aten::exp in blocks.3.attn in fp32"
  std::string advice;   ///< what to write: a policy's line, an option, code
  std::string outcome;  ///< "loss 2.8605, fp32 2.8604" or what was still wrong
};

/// How large the numbers of one dtype were that a part of the model made in one stretch of the
/// step.
struct PartMagnitudes {
  int64_t stretch =
      0;  ///< ops of one part that follow each other; counted in the order of the step
  std::string module;
  std::string parameter;  ///< the nearest one, where no Scope is
  Direction direction = Direction::kForward;
  bool is_recomputed = false;
  int64_t micro_batch = 1;
  at::ScalarType dtype = at::kFloat;
  int64_t results = 0;  ///< tensors, of outermost ops
  int64_t values = 0, zeros = 0, subnormals = 0, nonfinite = 0;
  double largest = 0.0;    ///< |x| of the finite ones
  std::string largest_op;  ///< that made it
  /// Half of those that are not 0, and one in a hundred, are smaller; of a sample.
  double median = 0.0, low = 0.0;
};

/// What became of a step that was looked into.
struct Diagnosis {
  /// Whether running it again gave the same bits; empty: that was not tried.
  std::optional<bool> is_reproduced;
  std::string not_reproduced;  ///< the first op that differed, and how it did
  double loss = 0.0;
  std::optional<double> fp32_loss;      ///< of the same step in fp32
  std::vector<std::string> not_finite;  ///< what the step left: "loss nan", a parameter, ...
  std::vector<Finding> findings;        ///< what to look at first comes first
  std::vector<Remedy> remedies;         ///< for the first finding; the best first
  int64_t ops = 0;                      ///< that were checked
  int64_t unread = 0;                   ///< results that were not: nested tensors, wrappers
  std::vector<PartMagnitudes> parts;    ///< of the first finding's micro-batch

  bool is_healthy() const {
    return findings.empty() && not_finite.empty() && is_reproduced.value_or(true);
  }
};

/// For people: a headline a finding, its chain and the remedies.
std::string to_text(const Diagnosis& diagnosis);

/// In two lines or three: the first headline, how it goes on, and the remedy that is proved.
std::string summary(const Diagnosis& diagnosis);

/// "aten::exp > aten::mul [fp16], forward of blocks.3.attn: overflow", on one line.
std::string headline(const Finding& finding);

}  // namespace mezzo::numerics
