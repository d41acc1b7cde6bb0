// A convolutional network in bf16 autocast: convolutions run in bf16, batch norm keeps fp32
// statistics, the loss is fp32; bf16 has fp32's range, so there is no scaler. It learns to tell the
// direction of noisy stripes.
#include <cmath>
#include <cstdio>

#include <mezzo/mezzo.h>

#include <torch/torch.h>

constexpr int64_t kDirections = 4, kSide = 16;

struct Images {
  at::Tensor pixels, direction;  // [n, 1, side, side] fp32; [n] int64
};

Images stripes(int64_t n, at::Device device) {
  const at::Tensor direction = torch::randint(kDirections, {n}, torch::kInt64);
  const at::Tensor angle = (direction * (M_PI / kDirections)).view({n, 1, 1});
  const at::Tensor line = torch::arange(kSide, at::kFloat);
  const at::Tensor phase = torch::rand({n, 1, 1}) * 2 * M_PI;
  const at::Tensor wave =
      (angle.cos() * line.view({1, kSide, 1}) + angle.sin() * line + phase).sin();
  return {(wave + torch::randn_like(wave) * 0.5).unsqueeze(1).to(device), direction.to(device)};
}

int main() {
  torch::manual_seed(0);
  const at::Device device = torch::cuda::is_available() ? at::kCUDA : at::kCPU;
  using namespace torch::nn;
  Sequential model(Conv2d(Conv2dOptions(1, 16, 3).padding(1)), BatchNorm2d(16), ReLU(),
                   MaxPool2d(2), Conv2d(Conv2dOptions(16, 32, 3).padding(1)), BatchNorm2d(32),
                   ReLU(), AdaptiveAvgPool2d(1), Flatten(), Linear(32, kDirections));
  model->to(device);
  mezzo::optim::SGD optimizer(model->parameters(), torch::optim::SGDOptions(0.05).momentum(0.9));

  for (int step = 1; step <= 150; ++step) {
    const Images batch = stripes(64, device);
    at::Tensor loss;
    {
      const mezzo::Autocast autocast(device.type(), at::kBFloat16);
      loss = torch::cross_entropy_loss(model->forward(batch.pixels), batch.direction);
    }
    optimizer.zero_grad();
    loss.backward();
    optimizer.step();
    if (step % 50 == 0) std::printf("step %3d  loss %.4f\n", step, loss.item<double>());
  }

  model->eval();
  const torch::NoGradGuard no_grad;
  const mezzo::Autocast autocast(device.type(), at::kBFloat16);
  const Images test = stripes(1024, device);
  const double accuracy =
      model->forward(test.pixels).argmax(1).eq(test.direction).to(at::kFloat).mean().item<double>();
  std::printf("accuracy %.1f %%\n", 100 * accuracy);
  return accuracy > 0.95 ? 0 : 1;
}
