// A gradient penalty under loss scaling: the penalty is made of gradients, so they are divided by
// the scale by hand before it is computed, and the whole is scaled again for the second backward
// pass (a double backward through autocast). It fits a smooth function to noisy samples of sin; the
// penalty keeps the slope down between them.
#include <cmath>
#include <cstdio>

#include <mezzo/mezzo.h>

#include <torch/torch.h>

int main() {
  torch::manual_seed(0);
  const at::Device device = torch::cuda::is_available() ? at::kCUDA : at::kCPU;
  const mezzo::kernels::CpuKernels kernels;  // fp16 products that are fast on a CPU too
  using namespace torch::nn;
  Sequential model(Linear(1, 64), Tanh(), Linear(64, 64), Tanh(), Linear(64, 1));
  model->to(device);
  mezzo::optim::Adam optimizer(model->parameters(), torch::optim::AdamOptions(3e-3));
  mezzo::GradScaler scaler(device);

  for (int step = 1; step <= 300; ++step) {
    const at::Tensor x = (torch::rand({128, 1}, device) * 2 - 1).mul_(M_PI).requires_grad_();
    const at::Tensor target = x.detach().sin() + torch::randn({128, 1}, device) * 0.05;
    at::Tensor output, error;
    {
      const mezzo::Autocast autocast(device.type(), at::kHalf);
      output = model->forward(x);
      error = torch::mse_loss(output, target);
    }

    // Scaled, so that the fp16 gradients inside do not underflow; create_graph, to differentiate
    // them again.
    const at::Tensor scaled_slope =
        torch::autograd::grad({scaler.scale(output.sum())}, {x}, /*grad_outputs=*/{},
                              /*retain_graph=*/true, /*create_graph=*/true)[0];
    const at::Tensor slope = scaled_slope / scaler.get_scale();

    at::Tensor loss;
    {
      const mezzo::Autocast autocast(device.type(), at::kHalf);
      const at::Tensor penalty = torch::relu(slope.abs() - 1).square().mean();  // |sin'| <= 1
      loss = error + 0.1 * penalty;
    }
    optimizer.zero_grad();
    scaler.scale(loss).backward();
    scaler.step(optimizer);
    scaler.update();
    if (step % 100 == 0)
      std::printf("step %3d  error %.4f  steepest %.2f  scale %.0f\n", step, error.item<double>(),
                  slope.abs().max().item<double>(), scaler.get_scale());
  }

  const torch::NoGradGuard no_grad;
  const at::Tensor x = torch::linspace(-3, 3, 200, device).unsqueeze(1);
  const double worst = (model->forward(x) - x.sin()).abs().max().item<double>();
  std::printf("largest error %.3f\n", worst);
  return worst < 0.15 ? 0 : 1;
}
