// An op of your own with a cast rule of its own. The energy of a signal is a sum of squares: in
// fp16 it overflows from 65504 on. One line says that it runs in fp32; the op and the model stay as
// they are.
#include <cmath>
#include <cstdio>

#include <mezzo/mezzo.h>

#include <torch/torch.h>

at::Tensor energy(const at::Tensor& signal) { return (signal * signal).sum(-1); }

TORCH_LIBRARY(myops, library) { library.def("energy(Tensor signal) -> Tensor", energy); }

at::Tensor call_energy(const at::Tensor& signal) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("myops::energy", "")
                             .typed<at::Tensor(const at::Tensor&)>();
  return op.call(signal);
}

int main() {
  torch::manual_seed(0);
  const mezzo::kernels::CpuKernels kernels;  // fp16 products that are fast on a CPU too
  torch::nn::Linear layer(64, 1024);
  const at::Tensor input = torch::randn({4, 64}) * 512;

  const mezzo::Autocast autocast(at::kCPU, at::kHalf);
  const at::Tensor signal = layer->forward(input);  // fp16, by the policy
  const at::Tensor plain = call_energy(signal);
  std::printf("no rule:  %s, largest %g\n", c10::toString(plain.scalar_type()),
              plain.max().item<double>());

  mezzo::CastPolicy policy = mezzo::CastPolicy::mezzo();
  policy.set("myops::energy", mezzo::CastRule::kFp32);
  const mezzo::CastPolicyGuard guard(policy);
  const at::Tensor safe = call_energy(signal);
  std::printf("fp32:     %s, largest %g\n", c10::toString(safe.scalar_type()),
              safe.max().item<double>());

  try {
    policy.set("myops::enegry", mezzo::CastRule::kFp32);
  } catch (const mezzo::Error& error) {
    std::printf("a typo:   %s\n", error.what());
  }
  return !plain.isfinite().all().item<bool>() && safe.isfinite().all().item<bool>() ? 0 : 1;
}
