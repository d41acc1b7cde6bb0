#pragma once

#include <string>

#include <c10/core/Device.h>

namespace mezzo::train {

/// The device called `name`, "cpu" or "cuda", initialised and made ready for training: products as
/// exact as their dtype (no TF32 in fp32 and no 16-bit partial sums in 16 bits, which libtorch has
/// by default), and attention by the GPU's fastest kernels, cuDNN's from Hopper on. Both hold for
/// the whole process. Throws UsageError for "cuda" where there is no usable GPU.
c10::Device ready_device(const std::string& name);

}  // namespace mezzo::train
