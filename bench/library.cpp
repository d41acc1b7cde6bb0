// What the library's own machinery costs: a policy call beside libtorch's autocast kernels, a
// training step under Autocast beside at::autocast, the optimizers beside the one fused kernel that
// they call, and AdamW by what it keeps. See bench/README.md.

#include <algorithm>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/autocast_mode.h>
#include <torch/optim/adamw.h>

#include "bench/timing.h"
#include "mezzo/amp/autocast.h"
#include "mezzo/base/cpu_allocator.h"
#include "mezzo/base/median.h"
#include "mezzo/base/scope.h"
#include "mezzo/kernels/cpu_kernels.h"
#include "mezzo/models/gpt2.h"
#include "mezzo/optim/adamw.h"
#include "mezzo/optim/compact_adamw.h"

namespace {

using mezzo::Autocast;
using mezzo::bench::seconds_of;
using mezzo::bench::Work;

/// Seconds of each piece of work, run in turn, `rounds` times; the order turns around each round.
std::vector<std::vector<double>> interleaved(const std::vector<Work>& works, int rounds) {
  std::vector<std::vector<double>> seconds(works.size());
  for (int round = 0; round < rounds; ++round) {
    for (size_t i = 0; i < works.size(); ++i) {
      const size_t turn = round % 2 == 0 ? i : works.size() - 1 - i;
      seconds[turn].push_back(seconds_of(works[turn]));
    }
  }
  return seconds;
}

double least(const std::vector<double>& values) {
  return *std::min_element(values.begin(), values.end());
}

/// libtorch's own region, as its C++ users write it.
class LibtorchAutocast {
 public:
  LibtorchAutocast() {
    at::autocast::set_autocast_enabled(at::kCPU, true);
    at::autocast::set_autocast_dtype(at::kCPU, at::kBFloat16);
    at::autocast::increment_nesting();
  }
  ~LibtorchAutocast() {
    if (at::autocast::decrement_nesting() == 0) at::autocast::clear_cache();
    at::autocast::set_autocast_enabled(at::kCPU, false);
  }
};

// ---- One op on tensors so small that the dispatcher is all there is, none of them in need of a
// cast.

struct Op {
  const char* name;
  Work call;
};

std::vector<Op> small_ops() {
  const at::Tensor a = at::rand({4, 4}, at::kBFloat16), b = at::rand({4, 4}, at::kBFloat16);
  const at::Tensor f = at::rand({4, 4}), weight = at::rand({4}), bias = at::rand({4});
  return {{"mm (lower)", [=] { at::mm(a, b); }},
          {"linear (lower)", [=] { at::linear(a, b); }},
          {"cat (promote)",
           [=] {
             at::cat({a, b});
           }},
          {"softmax", [=] { at::softmax(f, 1); }},
          {"layer_norm", [=] { at::layer_norm(f, {4}, weight, bias); }},
          {"mse_loss (fp32)", [=] { at::mse_loss(f, f); }}};
}

double nanoseconds(const Op& op) {
  constexpr int kCalls = 5000, kRounds = 40;
  const Work calls = [&] {
    for (int i = 0; i < kCalls; ++i) op.call();
  };
  return 1e9 * least(interleaved({calls}, kRounds)[0]) / kCalls;
}

void print_op_costs() {
  const at::NoGradGuard no_grad;
  const std::vector<Op> ops = small_ops();
  std::vector<double> plain, libtorch;
  for (const Op& op : ops) {  // before the first Autocast has put Mezzo's kernels there
    plain.push_back(nanoseconds(op));
    const LibtorchAutocast autocast;
    libtorch.push_back(nanoseconds(op));
  }
  std::printf("%-18s %9s %14s %9s %12s\n", "one small op, ns", "plain", "at::autocast", "Autocast",
              "Autocast adds");
  const mezzo::Scope outer("blocks.3"), scope("attn");
  for (size_t i = 0; i < ops.size(); ++i) {
    const Autocast autocast(at::kCPU, at::kBFloat16);
    const double ours = nanoseconds(ops[i]);
    std::printf("%-18s %9.0f %14.0f %9.0f %12.0f\n", ops[i].name, plain[i], libtorch[i], ours,
                ours - plain[i]);
  }
}

// ---- The nano step. Mezzo's kernels are in place for both; outside Mezzo's regions they hand on
// to libtorch's, at the price of a call.

void print_step_costs() {
  constexpr int64_t kBatch = 8, kLength = 256;
  const mezzo::kernels::CpuKernels kernels;  // the same products for both
  mezzo::models::GPT2 model(mezzo::models::model_preset("nano"), /*seed=*/1);
  mezzo::optim::AdamW optimizer(model->parameters(), torch::optim::AdamWOptions(3e-4));
  const at::Tensor tokens =
      at::randint(model->config().vocab_size, {kBatch, kLength + 1}, at::kLong);
  const at::Tensor inputs = tokens.narrow(1, 0, kLength), targets = tokens.narrow(1, 1, kLength);
  const auto step_in = [&](auto make_region) {
    return [&, make_region] {
      at::Tensor loss;
      {
        const auto region = make_region();
        loss = model->loss(inputs, targets);
      }
      optimizer.zero_grad();
      loss.backward();
      optimizer.step();
    };
  };
  const Work ours = step_in([] { return Autocast(at::kCPU, at::kBFloat16); });
  const Work theirs = step_in([] { return LibtorchAutocast(); });
  interleaved({ours, theirs}, 5);  // warm-up
  const auto seconds = interleaved({ours, theirs}, 60);
  const double our_ms = 1e3 * mezzo::median(seconds[0]);
  const double their_ms = 1e3 * mezzo::median(seconds[1]);
  std::printf("\nnano step, bf16, median ms: Autocast %.1f, at::autocast %.1f, ratio %.3f\n",
              our_ms, their_ms, our_ms / their_ms);
}

// ---- The optimizer's step beside its kernel.

std::vector<at::Tensor> each_like(const std::vector<at::Tensor>& params) {
  std::vector<at::Tensor> zeros;
  for (const at::Tensor& param : params) zeros.push_back(at::zeros_like(param));
  return zeros;
}

void print_optimizer_costs() {
  mezzo::models::ModelConfig config = mezzo::models::model_preset("mini");
  config.layers = 12;
  const at::NoGradGuard no_grad;
  const std::vector<at::Tensor> params = mezzo::models::GPT2(config, /*seed=*/1)->parameters();
  int64_t numbers = 0;
  for (const at::Tensor& param : params) {
    param.mutable_grad() = at::full_like(param, 1e-3);
    numbers += param.numel();
  }

  std::vector<at::Tensor> plain, grads, steps;
  for (const at::Tensor& param : params) {
    plain.push_back(param.detach());
    grads.push_back(param.grad());
    steps.push_back(at::ones({}));
  }
  std::vector<at::Tensor> means = each_like(params), squares = each_like(params);
  const at::Tensor scale = at::ones({}), found_inf = at::zeros({});
  const auto kernel = [&](const std::optional<at::Tensor>& grad_scale,
                          const std::optional<at::Tensor>& skip) {
    return [&, grad_scale, skip] {
      at::_fused_adamw_(plain, grads, means, squares, {}, steps, 3e-4, 0.9, 0.999, 0.01, 1e-8,
                        /*amsgrad=*/false, /*maximize=*/false, grad_scale, skip);
    };
  };
  mezzo::optim::AdamW ours(params, torch::optim::AdamWOptions(3e-4));
  torch::optim::AdamW theirs(params, torch::optim::AdamWOptions(3e-4));
  const std::vector<Work> works = {kernel({}, {}), [&] { ours.step(); }, kernel(scale, found_inf),
                                   [&] { ours.scaled_step(scale, found_inf); },
                                   [&] { theirs.step(); }};
  interleaved(works, 3);  // warm-up
  const auto seconds = interleaved(works, 30);
  std::printf("\nAdamW step, %.1f M parameters in %zu tensors, median ms (ratio to its kernel)\n",
              1e-6 * static_cast<double>(numbers), params.size());
  const std::vector<std::string> names = {"at::_fused_adamw_", "mezzo AdamW.step",
                                          "at::_fused_adamw_, scaled", "mezzo AdamW.scaled_step",
                                          "torch::optim::AdamW.step"};
  for (size_t i = 0; i < works.size(); ++i) {
    const double here = mezzo::median(seconds[i]);
    const double alone = mezzo::median(seconds[i == 2 || i == 3 ? 2 : 0]);
    std::printf("%-26s %7.2f  %.2fx\n", names[i].c_str(), 1e3 * here, here / alone);
  }
}

// ---- AdamW by what it keeps: time, and what moves through memory.

/// A step of 24 M parameters in 96 matrices, beside the bytes that it reads and writes.
struct Kept {
  const char* name;
  Work step;
  double bytes_moved, bytes_kept;  // a parameter
};

std::vector<at::Tensor> matrices(at::ScalarType dtype, at::ScalarType grad_dtype) {
  std::vector<at::Tensor> params;
  for (int i = 0; i < 96; ++i) {
    params.push_back(at::randn({500, 500}).to(dtype).set_requires_grad(true));
    params.back().mutable_grad() = at::randn({500, 500}).mul(1e-3).to(grad_dtype);
  }
  return params;
}

/// The weight's, the remainder's and the moments' bytes are read and written; gradients are read.
Kept compact(const char* name, bool splits, int64_t moment_bits, at::ScalarType grad_dtype) {
  const auto options =
      mezzo::optim::CompactAdamWOptions(3e-4).moment_bits(moment_bits).split_weights(splits);
  auto optimizer =
      std::make_shared<mezzo::optim::CompactAdamW>(matrices(at::kFloat, grad_dtype), options);
  const double moments = moment_bits == 8 ? 2.0625 : 8.0;
  const auto grad = static_cast<double>(at::elementSize(grad_dtype));
  return {name, [=] { optimizer->step(); }, 2 * (4 + moments) + grad, 4 + moments + grad};
}

void print_compact_costs() {
  const at::NoGradGuard no_grad;
  auto fused = std::make_shared<mezzo::optim::AdamW>(matrices(at::kFloat, at::kFloat),
                                                     torch::optim::AdamWOptions(3e-4));
  const std::vector<Kept> all = {{"at::_fused_adamw_, fp32", [=] { fused->step(); }, 28, 16},
                                 compact("fp32", false, 32, at::kFloat),
                                 compact("split, bf16 grads", true, 32, at::kBFloat16),
                                 compact("fp32, 8-bit moments", false, 8, at::kFloat),
                                 compact("split, 8-bit, bf16 grads", true, 8, at::kBFloat16)};
  std::vector<Work> works;
  for (const Kept& kept : all) works.push_back(kept.step);
  interleaved(works, 3);  // warm-up
  const auto seconds = interleaved(works, 30);
  std::printf("\n%-26s %9s %8s %12s %10s %14s\n", "24 M parameters, AdamW", "median ms", "ratio",
              "bytes moved", "GB/s", "bytes/param");
  for (size_t i = 0; i < all.size(); ++i) {
    const double here = mezzo::median(seconds[i]);
    std::printf("%-26s %9.2f %8.2f %12.2f %10.1f %14.2f\n", all[i].name, 1e3 * here,
                here / mezzo::median(seconds[0]), all[i].bytes_moved,
                24e6 * all[i].bytes_moved / here * 1e-9, all[i].bytes_kept);
  }
}

}  // namespace

int main() {
  const mezzo::CpuAllocator allocator;
  print_op_costs();
  print_step_costs();
  print_optimizer_costs();
  print_compact_costs();
}
