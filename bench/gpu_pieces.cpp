// Times the pieces of a GPT-2 step on a GPU, forward and backward, beside what the GPU's memory and
// products allow.
//
//   gpu_pieces_bench [gpt2|gpt2-xl]     65,536 tokens of width 768, or 16,384 of 1600

#include <string>
#include <string_view>

#include <fmt/format.h>

#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>

#include "bench/timing.h"
#include "mezzo/kernels/adamw/adamw.h"
#include "mezzo/kernels/cuda/device.h"
#include "mezzo/kernels/fused_linear/attention_linear.h"
#include "mezzo/kernels/gelu/gelu.h"
#include "mezzo/kernels/linear_cross_entropy/chunked.h"
#include "mezzo/kernels/residual_norm/residual_norm.h"
#include "mezzo/kernels/rope/rope.h"
#include "mezzo/kernels/sum_of_rows/sum_of_rows.h"
#include "mezzo/train/device.h"

namespace {

using namespace mezzo;

struct Shape {
  int64_t B, T, C, H, V;
  int64_t tokens() const { return B * T; }
};

double milliseconds_of(const bench::Work& work) {
  constexpr int kTimes = 10;
  const at::Tensor last = at::zeros({1}, at::kCUDA);
  const auto run = [&](int times) {
    for (int i = 0; i < times; ++i) work();
    last.item<float>();  // waits
  };
  run(3);
  return 1e3 * bench::seconds_of([&] { run(kTimes); }) / kTimes;
}

void print_bytes(std::string_view name, double bytes, const bench::Work& work) {
  const double ms = milliseconds_of(work);
  fmt::print("{:<28}{:>9.3f} ms {:>8.0f} GB/s\n", name, ms, 1e-6 * bytes / ms);
}

void print_operations(std::string_view name, double operations, const bench::Work& work) {
  const double ms = milliseconds_of(work);
  fmt::print("{:<28}{:>9.3f} ms {:>8.1f} TFLOP/s\n", name, ms, 1e-9 * operations / ms);
}

at::Tensor random(at::IntArrayRef sizes, at::ScalarType dtype) {
  return at::randn(sizes, at::TensorOptions(at::kCUDA).dtype(at::kFloat)).to(dtype);
}

void elementwise(const Shape& s) {
  const auto N = static_cast<double>(s.tokens() * s.C);
  const at::Tensor x = random({s.tokens(), s.C}, at::kFloat), y = at::empty_like(x);
  const at::Tensor branch = random({s.tokens(), s.C}, at::kBFloat16),
                   weight = random({s.C}, at::kFloat);
  print_bytes("copy", 8 * N, [&] { y.copy_(x); });
  for (const auto kind : {kernels::NormKind::kLayer, kernels::NormKind::kRms}) {
    const std::string name = kind == kernels::NormKind::kLayer ? "norm" : "RMSNorm";
    const auto run = [&] {
      return kernels::residual_norm(x, branch, weight, weight, 1e-5, at::kBFloat16, kind);
    };
    const auto norm = run();
    print_bytes("residual + " + name, 12 * N, run);
    print_bytes(name + ", backward and again", 18 * N, [&] {
      kernels::residual_norm_backward(branch, x, norm.sum, norm.mean, norm.rstd, weight, weight,
                                      {.branch = true, .normed = true});
    });
  }
  const at::Tensor qkv = random({s.B, s.T, 3 * s.C}, at::kBFloat16),
                   table = kernels::rope_table(s.T, s.C / s.H).cuda();
  const at::Tensor heads = qkv.narrow(2, 0, 2 * s.C).unflatten(2, {2 * s.H, s.C / s.H});
  print_bytes("rope of queries and keys", 8 * N, [&] { kernels::rope(heads, table); });
  const at::Tensor hidden = random({s.tokens(), 4 * s.C}, at::kBFloat16);
  print_bytes("gelu", 16 * N, [&] { kernels::tanh_gelu(hidden); });
  at::Tensor again;
  print_bytes("gelu, backward and again", 32 * N,
              [&] { kernels::tanh_gelu_backward(hidden, hidden, &again); });
  print_bytes("bias gradient", 8 * N, [&] { kernels::sum_of_rows(hidden); });
}

void products(const Shape& s) {
  const at::Tensor x = random({s.tokens(), s.C}, at::kBFloat16),
                   w = random({4 * s.C, s.C}, at::kBFloat16);
  const at::Tensor hidden = random({s.tokens(), 4 * s.C}, at::kBFloat16),
                   bias = random({4 * s.C}, at::kBFloat16);
  const double operations = 8.0 * static_cast<double>(s.tokens() * s.C * s.C);
  print_operations("x w^T + b", operations, [&] { at::linear(x, w, bias); });
  print_operations("grad w", operations, [&] { at::mm(hidden.t(), x); });
  print_operations("grad x", operations, [&] { at::mm(hidden, w); });
}

void attention(const Shape& s) {
  const at::Tensor qkv = random({s.B, s.T, 3 * s.C}, at::kBFloat16).requires_grad_();
  const at::Tensor w = random({s.C, s.C}, at::kBFloat16);
  const double operations = 2.0 * static_cast<double>(s.B * s.T * s.T * s.C);  // causal
  const at::Tensor y = kernels::attention_linear(qkv, s.H, w, {}), grad = at::ones_like(y);
  print_operations("attention + linear",
                   operations + 2.0 * static_cast<double>(s.tokens() * s.C * s.C),
                   [&] { kernels::attention_linear(qkv, s.H, w, {}); });
  print_operations("  and backward",
                   3.5 * operations + 4.0 * static_cast<double>(s.tokens() * s.C * s.C), [&] {
                     const at::Tensor out = kernels::attention_linear(qkv, s.H, w, {});
                     torch::autograd::grad({out}, {qkv}, {grad});
                   });
}

void head(const Shape& s) {
  const at::Tensor x = random({s.tokens(), s.C}, at::kBFloat16),
                   w = random({s.V, s.C}, at::kBFloat16);
  const at::Tensor targets =
      at::randint(s.V, {s.tokens()}, at::TensorOptions(at::kCUDA).dtype(at::kLong));
  print_operations(
      "head and loss, 3 products", 6.0 * static_cast<double>(s.tokens() * s.C * s.V),
      [&] { kernels::cuda::linear_cross_entropy(x, w, targets, {}, {.x = true, .weight = true}); });
}

void optimizer(bool is_8bit) {
  const int64_t N = int64_t{1} << 27;
  kernels::AdamWParam p;
  p.weight = random({N}, at::kBFloat16);
  p.grad = random({N}, at::kBFloat16);
  const auto gpu = at::TensorOptions(at::kCUDA);
  p.remainder = at::zeros({N}, gpu.dtype(at::kShort));
  p.exp_avg = at::zeros({N}, gpu.dtype(is_8bit ? at::kChar : at::kFloat));
  p.exp_avg_sq = at::zeros({N}, gpu.dtype(is_8bit ? at::kByte : at::kFloat));
  if (is_8bit) {
    p.exp_avg_scale = at::zeros({kernels::moment_blocks(N)}, gpu.dtype(at::kFloat));
    p.exp_avg_sq_scale = p.exp_avg_scale.clone();
  }
  p.coefficients = kernels::adamw_coefficients({3e-4, 0.9, 0.95, 1e-8, 0.1}, 3);
  print_bytes(is_8bit ? "adamw, split, 8-bit moments" : "adamw, split",
              static_cast<double>(N) * (is_8bit ? 14.0 : 26.0), [&] { kernels::adamw_({p}); });
}

}  // namespace

int main(int argc, char** argv) {
  const bool is_xl = argc > 1 && std::string_view(argv[1]) == "gpt2-xl";
  const Shape shape = is_xl ? Shape{16, 1024, 1600, 25, 50304} : Shape{64, 1024, 768, 12, 50304};
  const at::Device device = train::ready_device("cuda");
  fmt::print("{}\n", kernels::cuda::gpu_of(device).name);
  elementwise(shape);
  products(shape);
  attention(shape);
  head(shape);
  for (const bool is_8bit : {false, true}) optimizer(is_8bit);
}
