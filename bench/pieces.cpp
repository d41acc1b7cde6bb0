// A roofline: every piece of a training step by itself, at the step's shapes, with its operations
// and bytes, as a share of what this machine reaches at its best, measured in the same run; then
// the sum of all. What a Llama has in the place of GPT-2's norm and positions is timed at the same
// shapes, 0 times in the step. See bench/README.md.
//
//   pieces_bench [nano|mini|gpt2] [fp32|bf16|fp16]

#include <algorithm>
#include <cstdio>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include "bench/timing.h"
#include "mezzo/base/cpu_allocator.h"
#include "mezzo/kernels/adamw/adamw.h"
#include "mezzo/kernels/attention/attention.h"
#include "mezzo/kernels/cpu_kernels.h"
#include "mezzo/kernels/embed/embed.h"
#include "mezzo/kernels/gelu/gelu.h"
#include "mezzo/kernels/linear_cross_entropy/linear_cross_entropy.h"
#include "mezzo/kernels/matmul/brgemm.h"
#include "mezzo/kernels/norm/norm.h"
#include "mezzo/kernels/residual_norm/residual_norm.h"
#include "mezzo/kernels/rope/rope.h"
#include "mezzo/kernels/sum_of_rows/sum_of_rows.h"
#include "mezzo/models/model_config.h"

namespace {

using mezzo::bench::seconds_of;
using mezzo::bench::Work;
namespace kernels = mezzo::kernels;

constexpr int kRounds = 9;

struct Piece {
  std::string name;
  double times;  // in a step
  double gflop;  // of one
  double gbyte;  // read and written, if every operand crosses memory once
  Work work;
  double best_s = 1e9;
};

struct Limits {
  double gflops, gbytes;
};

/// The micro-kernel on operands in cache, on every thread at once; GFLOP/s of all.
template <class T>
double product_limit(at::ScalarType dtype) {
  constexpr int64_t M = 64, N = 64, K = 512;
  const kernels::brgemm::Product product{M, N, K, K, N, N, false};
  if (!kernels::brgemm::refusal(dtype, {product}).empty()) return 0.0;
  constexpr int kCalls = 2000;
  const int threads = at::get_num_threads();
  double best = 1e9;
  for (int round = 0; round < kRounds; ++round) {
    best = std::min(best, seconds_of([&] {
                      at::parallel_for(0, threads, 1, [&](int64_t, int64_t) {
                        const kernels::brgemm::ThreadState state;
                        const std::vector<T> a(M * K, T(1.0f)), b(K * N, T(1.0f));
                        std::vector<float> c(M * N);
                        for (int i = 0; i < kCalls; ++i)
                          kernels::brgemm::multiply<T>(product, a.data(), b.data(), c.data());
                      });
                    }));
  }
  return 2e-9 * M * N * K * kCalls * threads / best;
}

double memory_limit() {
  const at::Tensor from = at::ones({64 << 20}), to = at::empty_like(from);
  double best = 1e9;
  for (int round = 0; round < kRounds; ++round)
    best = std::min(best, seconds_of([&] { to.copy_(from); }));
  return 2e-9 * static_cast<double>(from.nbytes()) / best;
}

/// All pieces of one step of `config` on B sequences of T tokens.
class Step {
 public:
  Step(const mezzo::models::ModelConfig& config, int64_t B, int64_t T, at::ScalarType dtype)
      : config_(config), B_(B), T_(T), N_(B * T), C_(config.width), dtype_(dtype) {
    const int64_t V = config.vocab_size;
    product("qkv", C_, 3 * C_);
    product("attention out", C_, C_);
    product("mlp in", C_, 4 * C_);
    product("mlp out", 4 * C_, C_);
    attention();
    norm("norm", kernels::NormKind::kLayer, 2 * layers());
    gelu();
    head(V);
    embedding(V);
    optimizer();
    norm("RMSNorm", kernels::NormKind::kRms, 0);
    rope();
  }
  std::vector<Piece>& pieces() { return pieces_; }

 private:
  at::Tensor random(at::IntArrayRef sizes) const { return at::randn(sizes).to(dtype_); }
  double size(double elements) const {
    return 1e-9 * elements * static_cast<double>(c10::elementSize(dtype_));
  }
  double layers() const { return static_cast<double>(config_.layers); }
  void add(std::string name, double times, double gflop, double gbyte, Work work) {
    pieces_.push_back({std::move(name), times, gflop, gbyte, std::move(work)});
  }

  void product(const std::string& name, int64_t in, int64_t out) {
    const at::Tensor x = random({N_, in}), w = random({out, in}), g = random({N_, out}),
                     b = random({out});
    const double gflop = 2e-9 * static_cast<double>(N_ * in * out);
    const double gbyte = size(static_cast<double>(N_ * in + in * out + N_ * out));
    add(name + ", forward", layers(), gflop, gbyte, [=] { at::linear(x, w, b); });
    add(name + ", input's gradient", layers(), gflop, gbyte, [=] { at::mm(g, w); });
    add(name + ", weight's gradient", layers(), gflop, gbyte, [=] { at::mm(g.t(), x); });
    add(name + ", bias's gradient", layers(), 0, size(static_cast<double>(N_ * out)),
        [=] { kernels::sum_of_rows(g); });
  }

  void attention() {
    const int64_t H = config_.heads, E = C_ / H;
    const auto heads = [&] { return random({B_, T_, H, E}).transpose(1, 2); };
    const at::Tensor q = heads(), k = heads(), v = heads(), g = heads();
    const auto [out, lse] =
        kernels::flash_attention(q, k, v, 0.0, true, std::nullopt, std::nullopt);
    const double one = 1e-9 * static_cast<double>(B_ * H * T_ * T_ * E);  // causal: half of 2
    const double operand = size(static_cast<double>(N_ * C_));
    add("attention, forward", layers(), 2 * one, 4 * operand,
        [=] { kernels::flash_attention(q, k, v, 0.0, true, std::nullopt, std::nullopt); });
    add("attention, backward", layers(), 5 * one, 8 * operand, [=, o = out, l = lse] {
      kernels::flash_attention_backward(g, q, k, v, o, l, 0.0, true, std::nullopt, std::nullopt);
    });
  }

  /// `times` in the blocks, and once after them.
  void norm(const std::string& name, kernels::NormKind kind, double times) {
    const double with_last = times == 0 ? 0 : times + 1;
    const at::Tensor x = at::randn({N_, C_}), branch = random({N_, C_}), w = at::ones({C_});
    const auto r = kernels::residual_norm(x, branch, w, w, 1e-5, dtype_, kind);
    const double wide = 4e-9 * static_cast<double>(N_ * C_),
                 narrow = size(static_cast<double>(N_ * C_));
    add("residual + " + name + ", forward", with_last, 0, 2 * wide + 2 * narrow,
        [=, this] { kernels::residual_norm(x, branch, w, w, 1e-5, dtype_, kind); });
    add("residual + " + name + ", backward and again", with_last, 0, 3 * wide + 2 * narrow, [=] {
      kernels::residual_norm_backward(branch, x, r.sum, r.mean, r.rstd, w, w, {.normed = true});
    });
  }

  void rope() {
    const int64_t H = config_.heads, D = C_ / H;
    const at::Tensor qkv = random({B_, T_, 3 * C_}), table = kernels::rope_table(T_, D);
    const at::Tensor x = qkv.narrow(2, 0, 2 * C_).unflatten(2, {2 * H, D});
    add("RoPE of queries and keys", 0, 0, 2 * size(static_cast<double>(N_ * 2 * C_)),
        [=] { kernels::rope(x, table); });
  }

  void gelu() {
    const at::Tensor x = random({N_, 4 * C_}), g = random({N_, 4 * C_});
    const double one = size(static_cast<double>(N_ * 4 * C_));
    add("GELU, forward", layers(), 0, 2 * one, [=] { kernels::tanh_gelu(x); });
    add("GELU, backward and again", layers(), 0, 4 * one, [=] {
      at::Tensor again;
      kernels::tanh_gelu_backward(g, x, &again);
    });
  }

  void head(int64_t V) {
    const at::Tensor x = random({N_, C_}).requires_grad_();
    const at::Tensor w = (0.02 * random({V, C_})).requires_grad_();  // as the model begins
    const at::Tensor targets = at::randint(V, {N_});
    add("head and loss, all", 1, 6e-9 * static_cast<double>(N_ * C_ * V),
        size(static_cast<double>(6 * V * C_ + 6 * N_ * V)), [=] {
          const at::Tensor loss = kernels::linear_cross_entropy(x, w, targets);
          w.mutable_grad() = at::Tensor();
          x.mutable_grad() = at::Tensor();
          loss.backward();
        });
  }

  void embedding(int64_t V) {
    const at::Tensor table = random({V, C_}).requires_grad_(),
                     positions = random({T_, C_}).requires_grad_();
    const at::Tensor tokens = at::randint(V, {B_, T_}), g = at::randn({B_, T_, C_});
    add("embedding, all", 1, 0, 3 * 4e-9 * static_cast<double>(N_ * C_), [=] {
      const at::Tensor y = kernels::embed(tokens, table, positions, at::kFloat, true);
      table.mutable_grad() = at::Tensor();
      positions.mutable_grad() = at::Tensor();
      y.backward(g);
    });
  }

  void optimizer() {
    const int64_t P = mezzo::models::parameter_count(config_);
    const bool is_split = dtype_ == at::kBFloat16;
    const at::ScalarType stored = is_split ? at::kBFloat16 : at::kFloat;
    kernels::AdamWParam p;
    p.weight = at::randn({P}).to(stored);
    if (is_split) p.remainder = at::zeros({P}, at::kShort);
    p.grad = at::full({P}, 1e-4, stored);
    p.exp_avg = at::zeros({P});
    p.exp_avg_sq = at::zeros({P});
    p.coefficients = kernels::adamw_coefficients({3e-4, 0.9, 0.95, 1e-8, 0.1}, 1);
    const double grads = static_cast<double>(p.grad.nbytes()) * 1e-9;
    add("gradient norm", 1, 0, grads, [p] { kernels::l2_norm({p.grad}); });
    add("AdamW", 1, 0, (is_split ? 26e-9 : 28e-9) * static_cast<double>(P),
        [p] { kernels::adamw_({p}); });
  }

  mezzo::models::ModelConfig config_;
  int64_t B_, T_, N_, C_;
  at::ScalarType dtype_;
  std::vector<Piece> pieces_;
};

void print_pieces(std::vector<Piece>& pieces, const Limits& limits) {
  for (int round = -1; round < kRounds; ++round) {  // one to warm up
    for (Piece& piece : pieces) {
      const double seconds = seconds_of(piece.work);
      if (round >= 0) piece.best_s = std::min(piece.best_s, seconds);
    }
  }
  std::printf("| %-36s | times | ms each | ms in a step | GFLOP/s | GB/s | share of the limit |\n",
              "piece");
  std::printf("| --- | ---: | ---: | ---: | ---: | ---: | ---: |\n");
  double total = 0, least = 0;
  for (const Piece& p : pieces) {
    const double needed = std::max(p.gflop / limits.gflops, p.gbyte / limits.gbytes);
    std::printf("| %-36s | %.0f | %.2f | %.1f | %.0f | %.1f | %.0f %% |\n", p.name.c_str(), p.times,
                1e3 * p.best_s, 1e3 * p.best_s * p.times, p.gflop / p.best_s, p.gbyte / p.best_s,
                100 * needed / p.best_s);
    total += p.best_s * p.times;
    least += needed * p.times;
  }
  std::printf("| all pieces | | | %.1f | | | %.0f %% |\n", 1e3 * total, 100 * least / total);
}

}  // namespace

int main(int argc, char** argv) {
  const std::string model = argc > 1 ? argv[1] : "nano";
  const mezzo::models::ModelConfig config = mezzo::models::model_preset(model);
  if (config.family != mezzo::models::Family::kGPT2) {
    std::fprintf(stderr, "pieces_bench: the model must be a GPT-2, but %s is none\n",
                 model.c_str());
    return 2;
  }
  const std::string_view type = argc > 2 ? argv[2] : "bf16";
  const at::ScalarType dtype =
      type == "fp32" ? at::kFloat : (type == "fp16" ? at::kHalf : at::kBFloat16);
  const mezzo::CpuAllocator allocator;
  const kernels::CpuKernels cpu_kernels;
  const int64_t B = model == "gpt2" ? 2 : (model == "mini" ? 16 : 8),
                T = model == "gpt2" ? 512 : 256;
  // fp16 is multiplied in fp32.
  const Limits limits{dtype == at::kBFloat16 ? product_limit<c10::BFloat16>(at::kBFloat16)
                                             : product_limit<float>(at::kFloat),
                      memory_limit()};
  std::printf(
      "%s, %s, %d threads; at its best this machine does %.0f GFLOP/s in cache and copies "
      "%.1f GB/s\n\n",
      model.c_str(), std::string(type).c_str(), at::get_num_threads(), limits.gflops,
      limits.gbytes);
  Step step(config, B, T, dtype);
  print_pieces(step.pieces(), limits);
}
