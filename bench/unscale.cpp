// Gradients unscaled, checked and counted in one pass, beside libtorch's op, which only says
// whether one is bad; the two in turn. See bench/README.md.
//
//   unscale_bench [nano|mini|gpt2]

#include <cstdio>
#include <string>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include "bench/timing.h"
#include "mezzo/base/cpu_allocator.h"
#include "mezzo/base/median.h"
#include "mezzo/kernels/grad_check/grad_check.h"
#include "mezzo/models/gpt2.h"

namespace {

constexpr int kRounds = 101;

double ms_of(const mezzo::bench::Work& work) { return 1e3 * mezzo::bench::seconds_of(work); }

std::vector<at::Tensor> gradients_of(const std::string& model, at::ScalarType dtype) {
  std::vector<at::Tensor> grads;
  const mezzo::models::GPT2 net(mezzo::models::model_preset(model), /*seed=*/1);
  for (const at::Tensor& parameter : net->parameters())
    grads.push_back(at::randn_like(parameter).to(dtype));
  return grads;
}

void print_row(std::vector<at::Tensor> grads, float inv_scale) {
  at::Tensor found_inf = at::zeros({});
  const at::Tensor inverse = at::full({}, inv_scale);
  std::vector<double> theirs, ours, ratios;
  for (int round = 0; round < kRounds; ++round) {
    const auto libtorch = [&] {
      theirs.push_back(ms_of(
          [&] { at::_amp_foreach_non_finite_check_and_unscale_(grads, found_inf, inverse); }));
    };
    if (round % 2 == 0) libtorch();
    ours.push_back(ms_of([&] { mezzo::kernels::check_and_unscale_(grads, inv_scale, 0x1p-14); }));
    if (round % 2 == 1) libtorch();
    ratios.push_back(ours.back() / theirs.back());
    for (at::Tensor& grad : grads) grad.div_(inv_scale).div_(inv_scale);
  }
  std::printf("%-10s %9g %10.3f %10.3f %7.2f\n", at::toString(grads.front().scalar_type()),
              inv_scale, mezzo::median(theirs), mezzo::median(ours), mezzo::median(ratios));
}

}  // namespace

int main(int argc, char** argv) {
  const std::string model = argc > 1 ? argv[1] : "nano";
  const mezzo::CpuAllocator allocator;
  const at::NoGradGuard no_grad;
  std::printf("gradients of %s, %d threads, median of %d, ms\n%-10s %9s %10s %10s %7s\n",
              model.c_str(), at::get_num_threads(), kRounds, "", "times", "libtorch", "mezzo",
              "ratio");
  for (const auto dtype : {at::kFloat, at::kBFloat16, at::kHalf}) {
    for (const float inv_scale : {1.0f, 0x1p-2f}) print_row(gradients_of(model, dtype), inv_scale);
  }
}
