#include "mezzo/kernels/tensor_stats/tensor_stats.h"

namespace mezzo::kernels {

TensorStats tensor_stats(const at::Tensor& tensor) {
  return cpu::takes_stats(tensor) ? cpu::tensor_stats(tensor) : reference::tensor_stats(tensor);
}

}  // namespace mezzo::kernels
