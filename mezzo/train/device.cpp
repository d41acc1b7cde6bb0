#include "mezzo/train/device.h"

#include <vector>

#include <ATen/Context.h>

#include "mezzo/base/check.h"
#include "mezzo/kernels/cuda/device.h"
#include "mezzo/kernels/cuda/flavour.h"

namespace mezzo::train {
namespace {

void make_exact() {
  at::Context& context = at::globalContext();
  context.setFloat32MatmulPrecision("highest");
  context.setAllowTF32CuDNN(false);
  context.setAllowFP16ReductionCuBLAS(false);
  context.setAllowBF16ReductionCuBLAS(false);
}

// cuDNN's kernels are written for Hopper; before it, flash attention is ahead.
void choose_attention([[maybe_unused]] c10::Device device) {
  if constexpr (kernels::kHasCuda) {
    using at::SDPBackend;
    std::vector<int64_t> order;
    const auto add = [&](SDPBackend backend) { order.push_back(static_cast<int64_t>(backend)); };
    const bool is_hopper = kernels::cuda::gpu_of(device).capability >= 90;
    if (is_hopper) add(SDPBackend::cudnn_attention);
    add(SDPBackend::flash_attention);
    add(SDPBackend::efficient_attention);
    add(SDPBackend::math);
    if (!is_hopper) add(SDPBackend::cudnn_attention);
    add(SDPBackend::overrideable);
    at::globalContext().setSDPPriorityOrder(order);
  }
}

}  // namespace

c10::Device ready_device(const std::string& name) {
  const c10::Device named(name);
  if (named.is_cpu()) return named;
  MEZZO_CHECK_USAGE(
      at::globalContext().hasCUDA(), "train",
      "--device is cuda, but this build or this machine has no usable GPU. Hint: --device cpu");
  const c10::Device device(named.type(), named.has_index() ? named.index() : 0);
  // A tensor there would do it by itself; what is asked for before the first one does not.
  at::globalContext().lazyInitDevice(device.type());
  make_exact();
  choose_attention(device);
  return device;
}

}  // namespace mezzo::train
