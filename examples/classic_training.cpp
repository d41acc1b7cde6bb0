// The loop that torch.amp's users know, in C++: autocast, a scaled loss, accumulation, clipping,
// AdamW. It learns which of two interleaved spirals a point lies on.
#include <cmath>
#include <cstdio>
#include <utility>

#include <mezzo/mezzo.h>

#include <torch/torch.h>

// n points, [n, 2] fp32, and the spiral of each, [n] int64.
std::pair<at::Tensor, at::Tensor> spirals(int64_t n, at::Device device) {
  const at::Tensor spiral = torch::randint(2, {n}, torch::kInt64);
  const at::Tensor radius = torch::rand({n}).sqrt() * 3;
  const at::Tensor angle = radius * 2 + spiral * M_PI;
  const at::Tensor points = torch::stack({angle.cos(), angle.sin()}, 1) * radius.unsqueeze(1);
  return {points.to(device), spiral.to(device)};
}

int main() {
  torch::manual_seed(0);
  const at::Device device = torch::cuda::is_available() ? at::kCUDA : at::kCPU;
  const mezzo::kernels::CpuKernels kernels;  // fp16 products that are fast on a CPU too

  torch::nn::Sequential model(torch::nn::Linear(2, 128), torch::nn::GELU(),
                              torch::nn::Linear(128, 128), torch::nn::GELU(),
                              torch::nn::Linear(128, 2));
  model->to(device);
  mezzo::optim::AdamW optimizer(model->parameters(), torch::optim::AdamWOptions(3e-3));
  mezzo::GradScaler scaler(device, {.growth_interval = 100});

  const int64_t steps = 300, accumulate = 2;
  for (int64_t step = 1; step <= steps; ++step) {
    for (int64_t i = 0; i < accumulate; ++i) {
      const auto [points, spiral] = spirals(256, device);
      at::Tensor loss;
      {
        const mezzo::Autocast autocast(device.type(), at::kHalf);
        loss = torch::cross_entropy_loss(model->forward(points), spiral) / accumulate;
      }
      scaler.scale(loss).backward();  // gradients of both halves add up, scaled
    }
    scaler.unscale_(optimizer);  // the gradients are themselves again, so that they can be clipped
    mezzo::optim::clip_grad_norm_(model->parameters(), 1.0);
    scaler.step(optimizer);  // skipped if a gradient is not finite
    scaler.update();
    optimizer.zero_grad();
    if (step % 100 == 0) std::printf("step %3ld  scale %.0f\n", step, scaler.get_scale());
  }

  const torch::NoGradGuard no_grad;
  const auto [points, spiral] = spirals(4096, device);
  const double accuracy =
      model->forward(points).argmax(1).eq(spiral).to(at::kFloat).mean().item<double>();
  std::printf("skipped %ld of %ld steps, accuracy %.1f %%\n", scaler.counters().skips, steps,
              100 * accuracy);
  return accuracy > 0.95 ? 0 : 1;
}
