// Two models, two losses, two optimizers, one scaler. An encoder learns a code of 3 numbers for
// points in 8 dimensions, a decoder learns to restore the points; a second loss keeps the codes
// small. One backward pass a loss, one update of the scale a step; both optimizers step, or neither
// does.
#include <cstdio>

#include <mezzo/mezzo.h>

#include <torch/torch.h>

int main() {
  torch::manual_seed(0);
  const at::Device device = torch::cuda::is_available() ? at::kCUDA : at::kCPU;
  const mezzo::kernels::CpuKernels kernels;  // fp16 products that are fast on a CPU too
  using namespace torch::nn;
  Sequential encoder(Linear(8, 64), GELU(), Linear(64, 3));
  Sequential decoder(Linear(3, 64), GELU(), Linear(64, 8));
  encoder->to(device);
  decoder->to(device);
  mezzo::optim::AdamW encoder_optimizer(encoder->parameters(), torch::optim::AdamWOptions(3e-3));
  torch::optim::AdamW decoder_optimizer(decoder->parameters(),
                                        torch::optim::AdamWOptions(3e-3));  // any will do
  mezzo::GradScaler scaler(device);

  const at::Tensor plane = torch::randn({3, 8}, device);  // the points lie in 3 of the 8 dimensions
  double error = 0;
  int64_t steps_taken = 0;
  for (int step = 1; step <= 300; ++step) {
    const at::Tensor points = torch::randn({256, 3}, device).matmul(plane);
    at::Tensor restore_loss, code_loss;
    {
      const mezzo::Autocast autocast(device.type(), at::kHalf);
      const at::Tensor code = encoder->forward(points);
      restore_loss = torch::mse_loss(decoder->forward(code), points);
      code_loss = 1e-4 * code.to(at::kFloat).square().mean();
    }
    encoder_optimizer.zero_grad();
    decoder_optimizer.zero_grad();
    scaler.scale(restore_loss).backward({}, /*retain_graph=*/true);
    scaler.scale(code_loss).backward();
    const mezzo::StepOutcome outcome = scaler.step({&encoder_optimizer, &decoder_optimizer});
    scaler.update();  // once, after both

    steps_taken += outcome.stepped();
    error = restore_loss.item<double>();
    if (step % 100 == 0) std::printf("step %3d  error %.4f\n", step, error);
  }
  std::printf("%ld steps taken, error %.4f\n", steps_taken, error);
  return error < 0.1 ? 0 : 1;
}
