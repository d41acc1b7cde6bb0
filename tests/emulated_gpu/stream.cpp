// mezzo/kernels/cuda/stream.h on the CPU, where nothing is ever still to come.

#include "mezzo/kernels/cuda/stream.h"

namespace mezzo::kernels::cuda {

struct Stream::Own {};
Stream::Stream(c10::Device) {}
Stream::~Stream() = default;
Stream::Stream(Stream&&) noexcept = default;
void Stream::run(const std::function<void()>& f) { f(); }
void Stream::wait_for_current() {}
void Stream::let_current_wait() {}

struct Event::Own {};
Event::Event() = default;
Event::~Event() = default;
Event::Event(Event&&) noexcept = default;
void Event::record() {}
void Event::wait() const {}

}  // namespace mezzo::kernels::cuda
