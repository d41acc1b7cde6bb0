#pragma once

#include <cstdint>
#include <vector>

namespace mezzo::data {

/// Where a Sampler stands; what a checkpoint keeps.
struct SamplerState {
  uint64_t seed = 0;
  int64_t epoch = 0;
  int64_t position = 0;  // windows taken in this epoch
  friend bool operator==(const SamplerState&, const SamplerState&) = default;
};

/// Draws windows of context + 1 tokens (inputs, and the same moved by one as targets) from a train
/// split. An epoch is all windows phase + i * context, each once, in shuffled order; its phase and
/// its order follow from (seed, epoch) alone. So the sequence of windows does not depend on the
/// batch size, on the machine, or on where it was interrupted. Needs no memory for the order.
class Sampler {
 public:
  /// tokens  in the train split. Throws Error unless they make one window.
  Sampler(int64_t tokens, int64_t context, uint64_t seed);

  /// The offset of the next window's first token. Epochs follow each other without end.
  int64_t next();

  int64_t windows_in_epoch() const { return windows_; }
  const SamplerState& state() const { return state_; }

  /// Goes on from `state`, as if this sampler had come there itself. Throws Error if it cannot be
  /// a state of a sampler over these tokens and this context.
  void restore(const SamplerState& state);

 private:
  void begin_epoch(int64_t epoch);

  int64_t tokens_;
  int64_t context_;
  SamplerState state_;
  int64_t windows_ = 0;
  int64_t phase_ = 0;
  uint64_t order_key_ = 0;
};

/// The image of `index` under a permutation of [0, size) that `key` chooses.
uint64_t permuted(uint64_t index, uint64_t size, uint64_t key);

/// Offsets of `count` windows of context + 1 tokens, evenly spaced over a held-out split and the
/// same each time; of all that are there without overlap (beyond the shared token) if those are
/// fewer. Throws Error unless the tokens make one window.
std::vector<int64_t> held_out_windows(int64_t tokens, int64_t context, int64_t count);

}  // namespace mezzo::data
