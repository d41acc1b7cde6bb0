#include "mezzo/kernels/cuda/stream.h"

#include <ATen/cuda/CUDAEvent.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

namespace mezzo::kernels::cuda {

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

}  // namespace mezzo::kernels::cuda
