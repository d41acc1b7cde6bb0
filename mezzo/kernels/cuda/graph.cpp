#include "mezzo/kernels/cuda/graph.h"

#include <algorithm>
#include <exception>

#include <cuda_runtime_api.h>

#include <ATen/core/CachingHostAllocator.h>
#include <ATen/cuda/CUDAEvent.h>
#include <ATen/cuda/CUDAGeneratorImpl.h>
#include <ATen/cuda/CUDAGraph.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAGuard.h>

#include "mezzo/base/check.h"

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

struct Stream::Own {
  c10::cuda::CUDAStream stream;
};

Stream::Stream(c10::Device device)
    : own_(std::make_unique<Own>(
          c10::cuda::getStreamFromPool(/*isHighPriority=*/false, device.index()))) {}
Stream::~Stream() = default;
Stream::Stream(Stream&&) noexcept = default;

void Stream::run(const std::function<void()>& f) {
  const c10::cuda::CUDAStreamGuard guard(own_->stream);
  f();
}

void Stream::wait_for_current() {
  at::cuda::CUDAEvent event;
  event.record(c10::cuda::getCurrentCUDAStream(own_->stream.device_index()));
  event.block(own_->stream);
}

void Stream::let_current_wait() {
  at::cuda::CUDAEvent event;
  event.record(own_->stream);
  event.block(c10::cuda::getCurrentCUDAStream(own_->stream.device_index()));
}

struct Event::Own {
  at::cuda::CUDAEvent event;
};

Event::Event() : own_(std::make_unique<Own>()) {}
Event::~Event() = default;
Event::Event(Event&&) noexcept = default;

void Event::record() { own_->event.record(); }

void Event::wait() const {
  if (own_->event.isCreated()) own_->event.synchronize();
}

at::Tensor pinned_like(const at::Tensor& x) {
  return at::empty(x.sizes(), at::TensorOptions(x.scalar_type()).pinned_memory(true));
}

at::Tensor pinned_to_keep(const at::Tensor& x) {
  void* memory = nullptr;
  const size_t bytes = std::max(x.nbytes(), size_t{1});
  if (const cudaError_t status = cudaHostAlloc(&memory, bytes, cudaHostAllocDefault);
      status != cudaSuccess) {
    cudaGetLastError();  // or the next kernel's launch would be blamed
    detail::fail<Error>("pinned memory", "{} bytes of host memory cannot be had: {}", bytes,
                        cudaGetErrorString(status));
  }
  return at::from_blob(
      memory, x.sizes(), [](void* own) { cudaFreeHost(own); }, at::TensorOptions(x.scalar_type()));
}

}  // namespace mezzo::kernels::cuda
