#include <algorithm>

#include <ATen/ops/ones.h>

#include "mezzo/base/check.h"
#include "mezzo/base/stopwatch.h"
#include "mezzo/kernels/matmul/matmul.h"
#include "mezzo/kernels/matmul/onednn.h"
#include "mezzo/kernels/matmul/tiled.h"

namespace mezzo::kernels {
namespace {

constexpr auto kWidened =
    "operands widened to fp32 and the sum rounded once: saves memory, not time";

constexpr auto kTiles = "Mezzo's tiles over oneDNN's micro-kernel";

ProductRoute fp32_route() {
  if (tiled::process_refusal(at::kFloat).empty())
    return {kTiles, "AMD CPU: MKL's fp32 product takes a slow path here"};
  const std::string refusal = onednn::process_refusal();
  if (refusal.empty())
    return {"oneDNN, strict fp32", "AMD CPU: MKL's fp32 product takes a slow path here"};
  return {"libtorch's default", refusal};
}

ProductRoute bf16_route() {
  if (const std::string refusal = onednn::bf16_refusal(); !refusal.empty())
    return {fp32_route().kernel + ", widened from bf16", refusal + ": " + kWidened};
  if (onednn::fills_tiles()) return {"oneDNN", "the CPU multiplies bf16 in tiles (AMX)"};
  if (tiled::process_refusal(at::kBFloat16).empty())
    return {kTiles, "the CPU has bf16 arithmetic (AVX512-BF16)"};
  if (__builtin_cpu_supports("avx512bf16"))
    return {"oneDNN", "the CPU has bf16 arithmetic (AVX512-BF16)"};
  return {"libtorch's default", "the CPU has no bf16 arithmetic: it is emulated, slower than fp32"};
}

ProductRoute fp16_route() { return {fp32_route().kernel + ", widened from fp16", kWidened}; }

}  // namespace

ProductRoute product_route(at::ScalarType dtype) {
  switch (dtype) {
    case at::kFloat:
      return fp32_route();
    case at::kBFloat16:
      return bf16_route();
    case at::kHalf:
      return fp16_route();
    default:
      detail::fail<Error>("product_route", "dtype must be Float, Half or BFloat16, but is {}",
                          c10::toString(dtype));
  }
}

double measure_product_rate(at::ScalarType dtype, int64_t size) {
  constexpr int kRepetitions = 5;
  const at::Tensor a = at::ones({size, size}, dtype), b = at::ones({size, size}, dtype);
  double best_ms = 1e9;
  for (int i = 0; i <= kRepetitions; ++i) {  // the first one warms up
    const Stopwatch spent;
    kernels::mm(a, b);  // at::mm is visible here too
    if (i > 0) best_ms = std::min(best_ms, spent.ms());
  }
  const double operations =
      2.0 * static_cast<double>(size) * static_cast<double>(size) * static_cast<double>(size);
  return 1e-6 * operations / best_ms;
}

}  // namespace mezzo::kernels
