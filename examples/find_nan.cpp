// A softmax written by hand overflows in fp16, and the loss is NaN. The doctor runs the step again,
// op by op, and says where it came from and which change is proved to cure it.

#include <cstdio>

#include <mezzo/mezzo.h>

#include <torch/torch.h>

namespace {

struct Attention : torch::nn::Module {
  Attention() { qkv = register_module("qkv", torch::nn::Linear(32, 96)); }

  torch::Tensor forward(const torch::Tensor& x) {
    const mezzo::Scope scope("attention");  // one line, and findings name this part of the model
    const auto parts = qkv(x).chunk(3, -1);
    const auto weights = parts[0].matmul(parts[1].transpose(-2, -1)).exp();
    return (weights / weights.sum(-1, true)).matmul(parts[2]);
  }

  torch::nn::Linear qkv{nullptr};
};

}  // namespace

int main() {
  torch::manual_seed(1);
  Attention model;
  model.to(torch::kHalf);
  const auto x = torch::randn({4, 16, 32}).to(torch::kHalf) * 4;

  mezzo::numerics::Patient patient;
  patient.step = [&] {
    const auto loss = model.forward(x).to(torch::kFloat).pow(2).mean();
    loss.backward();
    return loss;
  };
  for (const auto& parameter : model.named_parameters())
    patient.parameters.emplace_back(parameter.key(), parameter.value());
  patient.inputs = {{"x", x}};

  const mezzo::numerics::Diagnosis diagnosis = mezzo::numerics::diagnose(patient);
  std::fputs(to_text(diagnosis).c_str(), stdout);
  return diagnosis.is_healthy() ? 1 : 0;  // it is not
}
