#pragma once

#include <memory>

namespace torch {
class Library;
}

namespace mezzo::kernels {

/// While one of these lives, libtorch's CPU products and attention are Mezzo's (matmul.h,
/// attention.h) for the whole process: forward and backward, for any model, with no change to it.
/// Objects nest; the last one to go restores libtorch's own kernels. Covers aten::mm, addmm, bmm,
/// baddbmm, and through them matmul and linear, and the flash attention behind
/// scaled_dot_product_attention; the out= and in-place variants stay libtorch's. Make and destroy
/// it where no other thread is computing.
class CpuKernels {
 public:
  [[nodiscard]] CpuKernels();

 private:
  std::shared_ptr<torch::Library> registration_;
};

}  // namespace mezzo::kernels
