// mezzo/kernels/cuda/graph.h on the CPU: what is recorded is done when it is launched, by running
// the work again.

#include "mezzo/kernels/cuda/graph.h"

#include <ATen/ops/empty.h>

namespace mezzo::kernels::cuda {

struct Graph::Recorded {
  std::function<void()> work;
};

Graph::Graph() : recorded_(std::make_unique<Recorded>()) {}
Graph::~Graph() = default;
void Graph::capture(const std::function<void()>& work) { recorded_->work = work; }
void Graph::replay() { recorded_->work(); }

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

at::Tensor pinned_like(const at::Tensor& x) { return at::empty(x.sizes(), x.scalar_type()); }

}  // namespace mezzo::kernels::cuda
