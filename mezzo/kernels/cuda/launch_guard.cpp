#include "mezzo/kernels/cuda/launch_guard.h"

#include <ATen/cuda/CUDAContextLight.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAStream.h>

#include "mezzo/base/check.h"
#include "mezzo/kernels/cuda/launch.h"

namespace mezzo::kernels::cuda {

LaunchGuard::LaunchGuard(const at::Tensor& tensor)
    : device_(tensor.device().index()),
      before_(c10::cuda::ExchangeDevice(device_)),
      stream_(c10::cuda::getCurrentCUDAStream(device_).stream()) {}

LaunchGuard::~LaunchGuard() { c10::cuda::MaybeExchangeDevice(before_); }

int LaunchGuard::multiprocessors() const {
  return at::cuda::getDeviceProperties(device_)->multiProcessorCount;
}

void launch_failed(const char* reason) {
  detail::fail<Error>("a kernel's launch", "failed: {}", reason);
}

}  // namespace mezzo::kernels::cuda
