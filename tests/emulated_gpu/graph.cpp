// mezzo/kernels/cuda/graph.h on the CPU: what is recorded is done when it is launched, by running
// the work again.

#include "mezzo/kernels/cuda/graph.h"

namespace mezzo::kernels::cuda {

struct Graph::Recorded {
  std::function<void()> work;
};

Graph::Graph() : recorded_(std::make_unique<Recorded>()) {}
Graph::~Graph() = default;
void Graph::capture(const std::function<void()>& work) { recorded_->work = work; }
void Graph::replay() { recorded_->work(); }

}  // namespace mezzo::kernels::cuda
