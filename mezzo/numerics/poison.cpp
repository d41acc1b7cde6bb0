#include "mezzo/numerics/poison.h"

namespace mezzo::numerics {

void poison(const at::Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case at::kBFloat16:
      tensor.view(at::kShort).fill_(0x7fa5);
      return;
    case at::kHalf:
      tensor.view(at::kShort).fill_(0x7da5);
      return;
    case at::kFloat:
      tensor.view(at::kInt).fill_(0x7fa5a5a5);
      return;
    case at::kDouble:
      tensor.view(at::kLong).fill_(0x7ff5a5a5a5a5a5a5);
      return;
    default:
      return;
  }
}

}  // namespace mezzo::numerics
