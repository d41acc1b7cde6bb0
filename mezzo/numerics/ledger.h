#pragma once

#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>
#include <c10/core/StorageImpl.h>

#include "mezzo/numerics/trace.h"

namespace mezzo::numerics {

/// Who wrote what is not finite, memory by memory, during one step.
class Ledger {
 public:
  /// What is known of the numbers that an op found in a tensor and that are not finite.
  struct Origin {
    enum class Place { kOp, kExternal, kGarbage, kUnseen } place = Place::kOp;
    std::vector<int64_t> sources;  // kOp: the records that wrote them; kGarbage: at::empty's
    Kinds intended = 0;
  };

  /// A tensor that is older than the step. `name` is what people call it.
  void name(const std::string& name, const at::Tensor& tensor, bool is_parameter);

  /// Of a tensor that an op reads. kinds: what was found in it. A tensor never seen before is older
  /// than the step.
  Origin origin(const at::Tensor& tensor, Kinds kinds);

  /// Record `writer` left the tensor as it is now.
  void wrote(const at::Tensor& tensor, Kinds kinds, Kinds intended, int64_t writer);
  /// Record `maker` (-1: code that is no op) made it and left in it what was there: `kinds`, which
  /// nobody may read.
  void made_garbage(const at::Tensor& tensor, Kinds kinds, int64_t maker);

  /// The last to have written there, during the step; -1: nobody.
  int64_t last_writer(const at::Tensor& tensor) const;
  /// Who made it, if nothing has been written there since; else -1.
  int64_t garbage_maker(const at::Tensor& tensor) const;

  /// From here on all tensors are older than the step; those with names keep them.
  void forget_writes();

  bool knows(const at::Tensor& tensor) const { return find(tensor) != nullptr; }
  bool is_external(const at::Tensor& tensor) const;
  bool is_parameter(const at::Tensor& tensor) const;
  /// "" for a tensor without one.
  std::string name_of(const at::Tensor& tensor) const;

 private:
  struct Span {
    const char *begin, *end;
    bool is_dense;
  };
  struct BadWrite {
    int64_t writer;
    Span span;
    Kinds kinds, intended;
  };
  struct Memory {
    explicit Memory(c10::weak_intrusive_ptr<c10::StorageImpl> storage)
        : keeps_address(std::move(storage)) {}
    bool is_untouched(const at::Tensor& tensor) const;

    c10::weak_intrusive_ptr<c10::StorageImpl> keeps_address;
    std::string name;
    bool is_external = false, is_parameter = false;
    int64_t garbage_maker = -1;
    uint64_t garbage_hash = 0;
    Kinds garbage = 0;
    int64_t last_writer = -1;
    std::vector<BadWrite> bad_writes;
  };

  static Span span_of(const at::Tensor& tensor);
  Memory* find(const at::Tensor& tensor);
  const Memory* find(const at::Tensor& tensor) const;
  Memory& enter(const at::Tensor& tensor);
  static Origin without_writer(const at::Tensor& tensor, const Memory& memory, Kinds kinds);

  std::unordered_map<const void*, Memory> memories_;
};

/// The dense numbers of a tensor: a sparse one's values. Undefined where none can be looked at: of
/// a nested tensor, or of a wrapper (functorch's, of a Python class), which has no memory of its
/// own.
at::Tensor numbers_of(const at::Tensor& tensor);

}  // namespace mezzo::numerics
