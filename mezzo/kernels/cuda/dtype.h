#pragma once

namespace mezzo::kernels::cuda {

/// A dtype, for a launcher that knows nothing of ATen. In the order of c10's: fp16, fp32, bf16.
enum class DType { kHalf, kFloat, kBFloat16 };

}  // namespace mezzo::kernels::cuda
