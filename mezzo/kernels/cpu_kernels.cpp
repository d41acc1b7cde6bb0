#include "mezzo/kernels/cpu_kernels.h"

#include <torch/library.h>

#include "mezzo/base/silent_warnings.h"
#include "mezzo/kernels/attention/attention.h"
#include "mezzo/kernels/matmul/matmul.h"

namespace mezzo::kernels {
namespace {

std::shared_ptr<torch::Library> register_kernels() {
  const SilentWarnings silent;
  auto library = std::make_shared<torch::Library>(torch::Library::IMPL, "aten",
                                                  c10::DispatchKey::CPU, __FILE__, __LINE__);
  library->impl("mm", &mm);
  library->impl("addmm", &addmm);
  library->impl("bmm", &bmm);
  library->impl("baddbmm", &baddbmm);
  library->impl("_scaled_dot_product_flash_attention_for_cpu", &flash_attention);
  library->impl("_scaled_dot_product_flash_attention_for_cpu_backward", &flash_attention_backward);
  return library;
}

}  // namespace

CpuKernels::CpuKernels() {
  static std::weak_ptr<torch::Library> current;
  registration_ = current.lock();
  if (registration_ == nullptr) {
    registration_ = register_kernels();
    current = registration_;
  }
}

}  // namespace mezzo::kernels
