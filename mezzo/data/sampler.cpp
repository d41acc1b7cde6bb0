#include "mezzo/data/sampler.h"

#include <algorithm>
#include <bit>
#include <string_view>

#include "mezzo/base/check.h"
#include "mezzo/data/random.h"

namespace mezzo::data {
namespace {

void check_sizes(std::string_view split, int64_t tokens, int64_t context) {
  MEZZO_CHECK(context >= 1, "sampler", "context must be at least 1 token, but is {}", context);
  MEZZO_CHECK_USAGE(
      context < tokens, "sampler",
      "the {} split must hold a window of context + 1 tokens, with context {}, but holds {}. "
      "Hint: a shorter context, or more text",
      split, context, tokens);
}

}  // namespace

// Note [A permutation without a table]
// A Feistel network permutes the numbers of an even number of bits; those that fall outside of
// [0, size) are sent through again, until one falls inside, at most four times as many on average.
// Any window of any epoch is then found at once: nothing to shuffle at the start of an epoch or on
// resume, and no table of 8 bytes a window.
uint64_t permuted(uint64_t index, uint64_t size, uint64_t key) {
  const int half = std::max(2, (static_cast<int>(std::bit_width(size - 1)) + 1) / 2);
  const uint64_t mask = (uint64_t{1} << half) - 1;
  do {
    uint64_t left = index >> half;
    uint64_t right = index & mask;
    for (uint64_t round = 1; round <= 8; ++round) {
      const uint64_t next = left ^ (mix64(mix64(key + round) ^ right) & mask);
      left = right;
      right = next;
    }
    index = left << half | right;
  } while (index >= size);
  return index;
}

Sampler::Sampler(int64_t tokens, int64_t context, uint64_t seed)
    : tokens_(tokens), context_(context), state_{.seed = seed} {
  check_sizes("train", tokens, context);
  begin_epoch(0);
}

void Sampler::begin_epoch(int64_t epoch) {
  state_.epoch = epoch;
  state_.position = 0;
  Random random(mix64(state_.seed) + static_cast<uint64_t>(epoch));
  // Without a phase the tokens at a window's start would have no context in any epoch.
  const int64_t phases = std::min(context_, tokens_ - context_);
  phase_ = static_cast<int64_t>(random.below(static_cast<uint64_t>(phases)));
  windows_ = (tokens_ - 1 - phase_) / context_;
  order_key_ = random.next();
}

int64_t Sampler::next() {
  if (state_.position == windows_) begin_epoch(state_.epoch + 1);
  const uint64_t window =
      permuted(static_cast<uint64_t>(state_.position), static_cast<uint64_t>(windows_), order_key_);
  ++state_.position;
  return phase_ + static_cast<int64_t>(window) * context_;
}

void Sampler::restore(const SamplerState& state) {
  Sampler there(tokens_, context_, state.seed);
  MEZZO_CHECK(state.epoch >= 0, "sampler", "a state's epoch must not be negative, but is {}",
              state.epoch);
  there.begin_epoch(state.epoch);
  MEZZO_CHECK(state.position >= 0 && state.position <= there.windows_, "sampler",
              "a state's position must be from 0 to {}, the windows of epoch {}, but is {}. Hint: "
              "resume with the data and context it was saved with",
              there.windows_, state.epoch, state.position);
  there.state_.position = state.position;
  *this = there;
}

std::vector<int64_t> held_out_windows(int64_t tokens, int64_t context, int64_t count) {
  check_sizes("held-out", tokens, context);
  MEZZO_CHECK(count >= 1, "sampler", "at least 1 held-out window must be asked for, but {} are",
              count);
  const int64_t available = (tokens - 1) / context;
  const int64_t taken = std::min(count, available);
  std::vector<int64_t> offsets;
  // i * available would overflow only beyond 3e9 windows of each.
  for (int64_t i = 0; i < taken; ++i) offsets.push_back(i * available / taken * context);
  return offsets;
}

}  // namespace mezzo::data
