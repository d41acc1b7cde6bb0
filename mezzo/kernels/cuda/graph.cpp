#include "mezzo/kernels/cuda/graph.h"

#include <exception>

#include <ATen/core/CachingHostAllocator.h>
#include <ATen/cuda/CUDAGeneratorImpl.h>
#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAFunctions.h>

namespace mezzo::kernels::cuda {

struct Graph::Recorded : at::cuda::CUDAGraph {
  // After a capture that broke, libtorch's own end throws before it takes back what was begun: its
  // allocators would go on asking this graph what is its own, the next emptyCache() would fail, and
  // so would every op that draws random numbers.
  void abandon_capture() {
    if (capture_ended_) return;  // it is the graph that could not be made
    at::HostAllocator* const host = at::getHostAllocator(at::kCUDA);
    c10::cuda::CUDACachingAllocator::endAllocateToPool(capture_dev_, mempool_id_);
    c10::cuda::CUDACachingAllocator::releasePool(capture_dev_, mempool_id_);
    host->end_allocate_to_pool(mempool_id_);
    host->release_pool(mempool_id_);
    for (const auto& [generator, drawn] : captured_generator_states_) generator->capturing_ = false;
  }
};

Graph::Graph() : recorded_(std::make_unique<Recorded>()) {}
Graph::~Graph() = default;

void Graph::capture(const std::function<void()>& work) {
  // A graph has a memory pool of its own: what earlier runs left cached would stand beside it.
  c10::cuda::device_synchronize();
  c10::cuda::CUDACachingAllocator::emptyCache();
  // Other threads may go on calling CUDA: the loader's copies are not part of the graph.
  recorded_->capture_begin({0, 0}, cudaStreamCaptureModeThreadLocal);
  std::exception_ptr reason;
  try {
    work();
  } catch (...) {
    reason = std::current_exception();
  }
  try {
    recorded_->capture_end();
  } catch (...) {
    recorded_->abandon_capture();
    if (reason == nullptr) reason = std::current_exception();
  }
  if (reason == nullptr) return;
  recorded_ = std::make_unique<Recorded>();
  std::rethrow_exception(reason);
}

void Graph::replay() { recorded_->replay(); }

}  // namespace mezzo::kernels::cuda
