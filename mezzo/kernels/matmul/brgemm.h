#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <c10/core/ScalarType.h>

namespace mezzo::kernels::brgemm {

// The small product that oneDNN generates for the running CPU, which libtorch exports without
// calling it stable: near the peak of a core where the operands lie in its cache. Kernels that
// bring their own tiles and epilogues stand on it. It is generated once a shape and a thread, so
// that a program should use few shapes. fp16 operands are not for it: they need a CPU with fp16
// arithmetic.

/// C [M, N] = A [M, K] x B [K, N], or C += A x B. lda, ldb, ldc: elements from a row to the next.
///   A  float or BFloat16, row-major
///   B  the same dtype; float: row-major; BFloat16: two rows interleaved, [K/2][ldb][2], K even
///   C  float, row-major; sums are fp32
struct Product {
  int64_t M, N, K, lda, ldb, ldc;
  bool accumulates;
};

/// Where B[k, n] lies: counted in elements.
template <class T>
constexpr int64_t packed_index(int64_t k, int64_t n, int64_t ldb) {
  return sizeof(T) == sizeof(float) ? k * ldb + n : (k / 2) * 2 * ldb + 2 * n + k % 2;
}

/// T: float or c10::BFloat16, for which refusal() of the product must be empty.
template <class T>
void multiply(const Product& product, const T* a, const T* b, float* c);

/// Empty if products of `dtype` may be taken here and now, otherwise why not: the CPU, or
/// libtorch's settings. Cheap.
std::string process_refusal(at::ScalarType dtype);

/// The same, and every product is tried: computed once on small whole numbers, whose sums are
/// exact, and compared with a plain loop. Costs about a millisecond a product.
std::string refusal(at::ScalarType dtype, const std::vector<Product>& products);

/// Held by a thread while it multiplies: gives the CPU's tile registers (AMX) back at the end.
class ThreadState {
 public:
  ThreadState() = default;
  ~ThreadState();
  ThreadState(const ThreadState&) = delete;
  ThreadState& operator=(const ThreadState&) = delete;
};

}  // namespace mezzo::kernels::brgemm
