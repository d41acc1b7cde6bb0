#include <cstdio>

#include <ATen/ATen.h>

#include <mezzo/mezzo.h>

int main() {
  const mezzo::Autocast autocast(at::kCPU, at::kBFloat16);
  const at::Tensor product = at::ones({2, 2}).mm(at::ones({2, 2}));
  std::printf("a product under autocast is %s\n", c10::toString(product.scalar_type()));
  return product.scalar_type() == at::kBFloat16 ? 0 : 1;
}
