// Flash attention over brgemm beside libtorch's, forward and backward, causal, in milliseconds: the
// best of interleaved rounds, outputs reused. See bench/README.md.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu_backward_cpu_dispatch.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu_cpu_dispatch.h>

#include "bench/timing.h"
#include "mezzo/base/cpu_allocator.h"
#include "mezzo/kernels/attention/flash.h"

namespace {

using mezzo::bench::seconds_of;
using mezzo::bench::Work;

constexpr int kRounds = 20;

/// Milliseconds of each piece of work: the best of kRounds, run in turn.
std::vector<double> best_ms(const std::vector<Work>& works) {
  std::vector<double> best(works.size(), 1e9);
  for (int round = -3; round < kRounds; ++round) {  // three to warm up
    for (size_t i = 0; i < works.size(); ++i) {
      const double ms = 1e3 * seconds_of(works[i]);
      if (round >= 0) best[i] = std::min(best[i], ms);
    }
  }
  return best;
}

void print_times(int64_t B, int64_t H, int64_t T, int64_t E, at::ScalarType dtype) {
  const auto random = [&] { return at::randn({B, T, H, E}).to(dtype).transpose(1, 2); };
  const at::Tensor query = random(), key = random(), value = random(), grad = random();
  const double scale = 1.0 / std::sqrt(static_cast<double>(E));
  const std::string refusal = mezzo::kernels::flash::refusal(query, key, value);
  if (!refusal.empty()) {
    std::printf("%s: %s\n", c10::toString(dtype), refusal.c_str());
    return;
  }
  const auto [out, logsumexp] =
      mezzo::kernels::flash::forward(query, key, value, /*is_causal=*/true, scale);
  const auto ms = best_ms(
      {[&] { mezzo::kernels::flash::forward(query, key, value, true, scale); },
       [&] { at::cpu::_scaled_dot_product_flash_attention_for_cpu(query, key, value, 0.0, true); },
       [&] {
         mezzo::kernels::flash::backward(grad, query, key, value, out, logsumexp, true, scale);
       },
       [&] {
         at::cpu::_scaled_dot_product_flash_attention_for_cpu_backward(grad, query, key, value, out,
                                                                       logsumexp, 0.0, true);
       }});
  // Half of two products forward and five backward, 2 T^2 E each.
  const double product = 1e-6 * static_cast<double>(B * H * T * T * E);
  std::printf("%-8s (%2ld,%3ld,%5ld,%3ld) | %7.3f %7.3f %5.2fx %5.0f | %7.3f %7.3f %5.2fx %5.0f\n",
              c10::toString(dtype), B, H, T, E, ms[0], ms[1], ms[1] / ms[0], 2 * product / ms[0],
              ms[2], ms[3], ms[3] / ms[2], 5 * product / ms[2]);
}

}  // namespace

int main() {
  const mezzo::CpuAllocator allocator;
  std::printf("%-8s %-17s | forward: ms, libtorch's, ratio, GFLOP/s | backward\n", "dtype",
              "(B, H, T, E)");
  for (const at::ScalarType dtype : {at::kBFloat16, at::kFloat}) {
    print_times(8, 4, 256, 64, dtype);
    print_times(16, 6, 256, 64, dtype);
    print_times(2, 12, 512, 64, dtype);
    print_times(1, 12, 1024, 64, dtype);
  }
}
