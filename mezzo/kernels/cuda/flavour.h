#pragma once

namespace mezzo::kernels {

// Note [Two flavours]
// Beside a kernel's CPU loops stands its twin for a GPU: cuda.cu, loops on raw pointers (nvcc takes
// half a minute for ATen's headers), and cuda.cpp, which takes tensors apart for them. Both are
// compiled wherever nvcc is, and are part of the library only where it links libtorch's CUDA half:
// MEZZO_CUDA. Elsewhere a GPU's tensors go to the reference. `if constexpr (kHasCuda)` around a
// call of the twin is what lets a library without it link.

#ifdef MEZZO_HAS_CUDA
inline constexpr bool kHasCuda = true;
#else
inline constexpr bool kHasCuda = false;
#endif

}  // namespace mezzo::kernels
