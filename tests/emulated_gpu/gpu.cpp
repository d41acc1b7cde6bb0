#include "tests/emulated_gpu/gpu.h"

#include <array>
#include <exception>
#include <memory>
#include <vector>

#include <ucontext.h>

namespace mezzo::emulated_gpu {

Index thread_index, block_index, block_size, grid_size;

namespace {

constexpr size_t kStackBytes = size_t{64} << 10;
constexpr int kLanes = 32;

/// A thread of the block that runs.
struct Fiber {
  ucontext_t context{};
  std::unique_ptr<char[]> stack = std::make_unique<char[]>(kStackBytes);
  bool is_done = false;
};

struct Block {
  std::vector<Fiber> fibers;
  std::vector<uint32_t> given;  // to the other lanes
  ucontext_t scheduler{};
  const std::function<void()>* work = nullptr;
};

Block block;

Fiber& running() { return block.fibers[thread_index.x]; }

void begin() {
  (*block.work)();
  running().is_done = true;
  swapcontext(&running().context, &block.scheduler);
}

/// The other threads run up to where they wait, or end.
void yield() {
  const Index own = thread_index;
  swapcontext(&running().context, &block.scheduler);
  thread_index = own;
}

void run_block(int threads) {
  for (Fiber& fiber : block.fibers) {
    fiber.is_done = false;
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = kStackBytes;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, &begin, 0);
  }
  // Each turn brings every thread that is not done to its next wait: in step, as all wait alike.
  for (bool is_any_left = true; is_any_left;) {
    is_any_left = false;
    for (int i = 0; i < threads; ++i) {
      Fiber& fiber = block.fibers[static_cast<size_t>(i)];
      if (fiber.is_done) continue;
      thread_index.x = static_cast<unsigned>(i);
      swapcontext(&block.scheduler, &fiber.context);
      is_any_left = is_any_left || !fiber.is_done;
    }
  }
}

}  // namespace

void run_blocks(int64_t blocks, int threads, const std::function<void()>& thread) {
  block.fibers.resize(static_cast<size_t>(threads));
  block.given.resize(static_cast<size_t>(threads));
  block.work = &thread;
  block_size.x = static_cast<unsigned>(threads);
  grid_size.x = static_cast<unsigned>(blocks);
  for (int64_t i = 0; i < blocks; ++i) {
    block_index.x = static_cast<unsigned>(i);
    run_block(threads);
  }
}

void sync_block() { yield(); }

uint32_t exchange(uint32_t value, int step) {
  block.given[thread_index.x] = value;
  yield();
  const unsigned lane = thread_index.x % kLanes, first = thread_index.x - lane;
  const uint32_t other = block.given[first + (lane ^ static_cast<unsigned>(step))];
  yield();  // before it is overwritten
  return other;
}

}  // namespace mezzo::emulated_gpu
