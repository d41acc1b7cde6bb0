#include "mezzo/kernels/cuda/graph.h"

#include <algorithm>

#include <cuda_runtime_api.h>

#include <ATen/cuda/CUDAEvent.h>
#include <ATen/cuda/CUDAGraph.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAGuard.h>

#include "mezzo/base/check.h"

namespace mezzo::kernels::cuda {

struct Graph::Recorded {
  at::cuda::CUDAGraph graph;
};

Graph::Graph() : recorded_(std::make_unique<Recorded>()) {}
Graph::~Graph() = default;

void Graph::capture(const std::function<void()>& work) {
  // A graph has a memory pool of its own: what earlier runs left cached would stand beside it.
  c10::cuda::device_synchronize();
  c10::cuda::CUDACachingAllocator::emptyCache();
  // Other threads may go on calling CUDA: the loader's copies are not part of the graph.
  recorded_->graph.capture_begin({0, 0}, cudaStreamCaptureModeThreadLocal);
  try {
    work();
  } catch (...) {
    try {
      recorded_->graph.capture_end();
    } catch (const std::exception&) {
      // The capture is broken already, by what is thrown on.
    }
    recorded_ = std::make_unique<Recorded>();
    throw;
  }
  recorded_->graph.capture_end();
}

void Graph::replay() { recorded_->graph.replay(); }

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
