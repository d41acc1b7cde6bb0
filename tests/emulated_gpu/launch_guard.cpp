// mezzo/kernels/cuda/launch_guard.h for tensors on the CPU, which stands for the GPU.

#include "mezzo/kernels/cuda/launch_guard.h"

namespace mezzo::kernels::cuda {

LaunchGuard::LaunchGuard(const at::Tensor&) : device_(0), before_(0), stream_(nullptr) {}

LaunchGuard::~LaunchGuard() = default;

int LaunchGuard::multiprocessors() const { return 2; }

}  // namespace mezzo::kernels::cuda
