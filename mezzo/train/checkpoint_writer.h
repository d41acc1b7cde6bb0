#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <future>
#include <optional>
#include <string>

#include "mezzo/train/checkpoint.h"

namespace mezzo::train {

/// Writes a run's checkpoints and deletes those that are not kept; if it is told to, while the run
/// goes on. Not thread-safe.
class CheckpointWriter {
 public:
  /// keep: as for prune_checkpoints(). note: told, on the caller's thread, of a write in flight
  /// that has failed, where nobody waits for it, and of one that had to be waited for.
  CheckpointWriter(std::filesystem::path run_dir, int64_t keep,
                   std::function<void(const std::string&)> note);
  /// Waits for the write in flight.
  ~CheckpointWriter();
  CheckpointWriter(const CheckpointWriter&) = delete;
  CheckpointWriter& operator=(const CheckpointWriter&) = delete;

  /// The run goes on from its checkpoint of `step`: those of later steps are not of its way any
  /// more, and are put aside, with a note, when it writes its first.
  void go_on_from(int64_t step) { went_on_from_ = step; }

  /// On the disk when it returns. There must be none of the same step. Throws Error as
  /// save_checkpoint() does. The write in flight comes first; that it has failed is noted.
  void write(const Checkpoint& checkpoint);

  /// Writes, on a thread of its own, a copy of it in host memory, which is kept for the next one:
  /// as many bytes as the checkpoint's tensors have. These are on the CPU, or on one GPU; there
  /// they are copied on its current stream, and the host does not wait: what is launched on that
  /// stream afterwards may change them, and what the host does. At most one write is in flight: the
  /// one before is waited for. Where that has failed, or without room for the copy, it is write().
  void write_in_background(const Checkpoint& checkpoint);

  /// Until the write in flight is on the disk; throws its error, once.
  void wait();

 private:
  bool note_failure();
  void abandon_later_ones();
  void make_room(const Checkpoint& checkpoint);
  void copy(const Checkpoint& checkpoint);
  void put(const Checkpoint& checkpoint) const;

  std::filesystem::path run_dir_;
  int64_t keep_;
  std::function<void(const std::string&)> note_;
  std::optional<int64_t> went_on_from_;  // until the first write
  Checkpoint copy_;                      // of the last one, in memory that the next one takes over
  std::future<void> in_flight_;
};

}  // namespace mezzo::train
