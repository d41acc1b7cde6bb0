#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <ATen/record_function.h>

#include "mezzo/numerics/birth.h"
#include "mezzo/numerics/ledger.h"
#include "mezzo/numerics/places.h"
#include "mezzo/numerics/trace.h"

namespace mezzo::numerics {

struct RecorderOptions {
  bool hashes = false;               ///< content_hash of every finite result
  bool is_poisoned = false;          ///< what at::empty makes holds NaN, and none that is computed
  bool saves_overwritten = false;    ///< keeps a copy of what ops change in place and is older
  bool forgets_good_steps = false;   ///< see Note [What a watch keeps]
  bool follows_this_thread = false;  ///< and those that carry its state on, as autograd's do
};

// Note [What a RecordFunction callback may do]
// The end callback has the results but no arguments, which are destroyed before the kernel runs,
// and in place it finds them overwritten: the start callback keeps what is needed. An exception
// thrown from a callback is swallowed: failures are kept and thrown when recording ends. The
// callback for all threads is added once for the process, and switched, as adding is not for use
// beside other threads.
//
// Other threads may be within an op when a recording begins or ends, or a step of it is forgotten:
// callbacks find out under a lock whether there is a recorder, and an op that ends in another
// stretch of recording than it began in is nobody's.

// Note [What a watch keeps]
// A watch lives for many steps. Where a thread goes on after the backward pass of a graph that it
// has made, and where the trace of a program without backward passes has become long, it is
// forgotten, unless bad numbers stand at its ends: then it stays, and nothing is followed any more.
// A GradScaler computes before it sees the gradients: until then a step that it may skip goes on.

/// Follows every op of the process, on every thread unless told otherwise, while it lives, and
/// writes a Trace. One at a time; begins and ends on one thread. Reads each tensor that an op reads
/// or writes, when it does.
class Recorder {
 public:
  explicit Recorder(const RecorderOptions& options = {});
  ~Recorder();
  Recorder(const Recorder&) = delete;
  Recorder& operator=(const Recorder&) = delete;

  /// What people call a tensor that is older than the step.
  void name(const std::string& name, const at::Tensor& tensor, bool is_parameter);

  /// Ends recording, also of ops that other threads are still in.
  void stop();

  /// After stop(): who wrote the bad numbers that are in `tensor` now; empty if it is finite.
  std::vector<int64_t> sources_of(const at::Tensor& tensor);

  /// A tensor older than the step that an op has changed in place.
  struct Overwritten {
    at::Tensor tensor, before;
    bool is_read = false;  // by such an op: not only written
  };
  /// After stop(): all of them, in the order of their first change. Views of one memory are each
  /// there by themselves.
  const std::vector<Overwritten>& overwritten() const { return overwritten_; }

  /// stop(), if need be; throws what went wrong in a callback.
  void finish();
  const Trace& trace() const { return trace_; }
  /// After finish().
  Trace take_trace() { return std::move(trace_); }

  /// OpRecord::key of the innermost op that the calling thread is in; 0: none, or none records.
  static uint64_t current_key();

 private:
  struct Frame;
  static std::unique_ptr<at::ObserverContext> on_start(const at::RecordFunction& function);
  static void on_end(const at::RecordFunction& function, at::ObserverContext* context);

  std::unique_ptr<Frame> start(const at::RecordFunction& function, const OpFacts& op);
  std::optional<OpRecord> end(const Frame& frame, Call& call,
                              const std::vector<c10::IValue>& outputs);
  void end_step();
  bool is_at_a_new_step() const;
  void read(Frame& frame, size_t argument, const at::Tensor& tensor);
  TensorFacts facts_of(const at::Tensor& numbers) const;
  int64_t add_unseen(const OpRecord& reader, const TensorFacts& facts);
  void add_external(const at::Tensor& numbers, const TensorFacts& facts, int64_t reader);
  void blame_garbage(int64_t maker);
  void keep_overwritten(const Frame& frame, size_t argument, const at::Tensor& numbers);
  bool is_garbage_made_by(int64_t record) const;

  RecorderOptions options_;
  uint64_t stretch_;  // of recording: of all recorders, one number for each
  Trace trace_;
  Ledger ledger_;
  Places places_{trace_, ledger_};
  std::map<const void*, size_t> external_of_;
  std::vector<Overwritten> overwritten_;
  std::map<const void*, size_t> place_in_overwritten_;
  int64_t last_bad_ = -1;  // the last record that left numbers that are bad and not meant so
  bool has_enough_ = false;
  std::string failure_;
  at::CallbackHandle handle_ = 0;
};

}  // namespace mezzo::numerics
