#include <algorithm>
#include <cstdio>
#include <limits>
#include <map>
#include <string>

#include <fmt/format.h>

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <torch/version.h>

#include "mezzo/amp/precision.h"
#include "mezzo/cli/commands.h"
#include "mezzo/kernels/cuda/device.h"
#include "mezzo/kernels/cuda/flavour.h"
#include "mezzo/kernels/matmul/matmul.h"

namespace mezzo::cli {
namespace {

void print_gpu() {
  const kernels::cuda::Gpu gpu = kernels::cuda::gpu_of(at::Device(at::kCUDA, 0));
  fmt::print("GPU        {}, compute capability {}.{}, {} multiprocessors, {:.0f} GiB\n", gpu.name,
             gpu.capability / 10, gpu.capability % 10, gpu.multiprocessors,
             static_cast<double>(gpu.memory_bytes) / 0x1p30);
  constexpr int kFirstWithBf16 = 80, kFirstWithFp8 = 89;
  fmt::print(
      "           its Tensor Cores: fp16{}{}\n",
      gpu.capability >= kFirstWithBf16 ? ", bf16" : "; none for bf16, so amp-fp16 is its mode",
      gpu.capability >= kFirstWithFp8 ? ", fp8" : "");
}

void print_machine() {
  const bool has_cuda = at::globalContext().hasCUDA();
  fmt::print("mezzo      {}\n", MEZZO_VERSION);
  fmt::print("libtorch   {}\n", TORCH_VERSION);
  fmt::print("CPU        {}, {} threads\n", at::get_cpu_capability(), at::get_num_threads());
  fmt::print("CUDA       {}\n", has_cuda ? "yes" : "no usable GPU, or a CPU-only build");
  if constexpr (kernels::kHasCuda) {
    if (has_cuda) print_gpu();
  }
  fmt::print("\n");
}

/// GFLOP/s of a dtype's products: the best round, and the worst.
struct Rate {
  double best = 0;
  double worst = std::numeric_limits<double>::infinity();
};

// In turns, so that what else the machine does slows all of them, and not one in all its rounds.
std::map<at::ScalarType, Rate> measured_rates() {
  constexpr int64_t kSize = 1024;
  constexpr int kRounds = 3;
  std::map<at::ScalarType, Rate> rates;
  for (const PrecisionMode& mode : precision_modes())
    if (!mode.fp8_products) rates.try_emplace(mode.compute());
  for (int round = 0; round < kRounds; ++round) {
    for (auto& [dtype, rate] : rates) {
      const double now = kernels::measure_product_rate(dtype, kSize);
      rate.best = std::max(rate.best, now);
      rate.worst = std::min(rate.worst, now);
    }
  }
  return rates;
}

void warn_if_busy(const std::map<at::ScalarType, Rate>& rates) {
  constexpr double kLargestLoss = 0.2;
  double loss = 0;
  for (const auto& [dtype, rate] : rates) loss = std::max(loss, 1 - rate.worst / rate.best);
  if (loss > kLargestLoss)
    fmt::print("the machine is busy: between rounds these rates fell by up to {:.0f} %\n",
               100 * loss);
}

void print_precisions() {
  const std::map<at::ScalarType, Rate> rates = measured_rates();
  const double fp32_rate = rates.at(at::kFloat).best;
  fmt::print("{:<10}  {:>8}  {:>8}  {}\n", "precision", "GFLOP/s", "vs fp32",
             "how its products are computed on the CPU");
  for (const PrecisionMode& mode : precision_modes()) {
    if (mode.fp8_products) {
      fmt::print(
          "{:<10}  {:>8}  {:>8}  emulated: it shows the accuracy of the mode, not its speed\n",
          mode.name, "-", "-");
      continue;
    }
    const at::ScalarType dtype = mode.compute();
    const double rate = rates.at(dtype).best;
    const kernels::ProductRoute route = kernels::product_route(dtype);
    fmt::print("{:<10}  {:>8.0f}  {:>7.2f}x  {}: {}\n", mode.name, rate, rate / fp32_rate,
               route.kernel, route.reason);
  }
  warn_if_busy(rates);
  fmt::print("\n");
  for (const PrecisionMode& mode : precision_modes())
    fmt::print("{:<10}  {}\n", mode.name, mode.meaning);
}

}  // namespace

void add_info_command(CLI::App& app, int& exit_code) {
  CLI::App* info = app.add_subcommand(
      "info", "this machine: device, instruction set, which precisions are fast and why");
  info->callback([&exit_code] {
    print_machine();
    print_precisions();
    exit_code = kOk;
  });
}

}  // namespace mezzo::cli
