#include "mezzo/kernels/matmul/brgemm.h"

#include <exception>
#include <limits>
#include <type_traits>

#include <fmt/format.h>

#include <ATen/Context.h>
#include <ATen/Version.h>
#include <ATen/native/CPUBlas.h>

namespace mezzo::kernels::brgemm {
namespace {

constexpr float kUntouched = -12345.0f;

// Whole numbers from -3 to 3, in no obvious order.
float operand_at(int64_t i) { return static_cast<float>((i * 5 + i / 7) % 7 - 3); }

/// Operands with NaN in the gaps between rows, which must not be read, and a C whose gaps must not
/// be written.
template <class T>
struct Trial {
  explicit Trial(const Product& p)
      : a(p.M * p.lda, T(std::numeric_limits<float>::quiet_NaN())),
        b(p.K * p.ldb, T(std::numeric_limits<float>::quiet_NaN())),
        c(p.M * p.ldc, kUntouched),
        expected(c) {
    for (int64_t m = 0; m < p.M; ++m)
      for (int64_t k = 0; k < p.K; ++k) a[m * p.lda + k] = T(operand_at(m * p.K + k));
    for (int64_t k = 0; k < p.K; ++k)
      for (int64_t n = 0; n < p.N; ++n)
        b[packed_index<T>(k, n, p.ldb)] = T(operand_at(3 * (k * p.N + n) + 1));
    for (int64_t m = 0; m < p.M; ++m) fill_row(p, m);
  }

  std::vector<T> a, b;
  std::vector<float> c, expected;

 private:
  void fill_row(const Product& p, int64_t m) {
    for (int64_t n = 0; n < p.N; ++n) {
      const float before = operand_at(m + n);
      c[m * p.ldc + n] = before;
      expected[m * p.ldc + n] = p.accumulates ? before : 0.0f;
    }
    for (int64_t k = 0; k < p.K; ++k) {
      const float left = operand_at(m * p.K + k);
      for (int64_t n = 0; n < p.N; ++n)
        expected[m * p.ldc + n] += left * operand_at(3 * (k * p.N + n) + 1);
    }
  }
};

template <class T>
std::string refusal_of(const Product& p) {
  Trial<T> trial(p);
  try {
    const ThreadState state;
    multiply(p, trial.a.data(), trial.b.data(), trial.c.data());
  } catch (const std::exception& error) {
    const std::string text = error.what();
    return "libtorch's brgemm refuses: " + text.substr(0, text.find('\n'));
  }
  if (trial.c == trial.expected) return "";
  return fmt::format("libtorch's brgemm computes {}x{}x{} wrongly on this CPU", p.M, p.N, p.K);
}

}  // namespace

template <class T>
void multiply(const Product& p, const T* a, const T* b, float* c) {
  constexpr bool kIsInterleaved = !std::is_same_v<T, float>;
  at::native::cpublas::brgemm(p.M, p.N, p.K, p.lda, p.ldb, p.ldc, p.accumulates, a, b, c,
                              kIsInterleaved);
}

template void multiply(const Product&, const float*, const float*, float*);
template void multiply(const Product&, const c10::BFloat16*, const c10::BFloat16*, float*);

std::string process_refusal(at::ScalarType dtype) {
  if (dtype != at::kFloat && dtype != at::kBFloat16)
    return fmt::format("brgemm takes fp32 and bf16, not {}", c10::toString(dtype));
  if (!at::globalContext().userEnabledMkldnn()) return "oneDNN is switched off";
  const std::string capability = at::get_cpu_capability();
  if (dtype == at::kFloat) {
    if (capability != "AVX512" && capability != "AVX2") return "neither AVX2 nor AVX512 in force";
    return "";
  }
  if (capability != "AVX512") return "AVX512 is not in force";
  if (!__builtin_cpu_supports("avx512bf16")) return "the CPU has no bf16 arithmetic";
  return "";
}

std::string refusal(at::ScalarType dtype, const std::vector<Product>& products) {
  std::string reason = process_refusal(dtype);
  for (const Product& product : products) {
    if (!reason.empty()) break;
    reason = dtype == at::kFloat ? refusal_of<float>(product) : refusal_of<c10::BFloat16>(product);
  }
  return reason;
}

ThreadState::~ThreadState() { at::native::cpublas::brgemm_release(); }

}  // namespace mezzo::kernels::brgemm
