#include "mezzo/kernels/cuda/graph.h"

#include <ATen/ATen.h>
#include <c10/core/CachingDeviceAllocator.h>

#include "mezzo/kernels/cuda/flavour.h"
#include "mezzo/kernels/cuda/pinned.h"
#include "mezzo/kernels/cuda/stream.h"
#include "tests/testing.h"

namespace mezzo::kernels {
namespace {

at::Tensor dropped(const at::Tensor& x) { return at::dropout(x, 0.5, /*train=*/true); }

TEST(GraphOnGpu, ACaptureThatBreaksLeavesAllAsItWas) {
  if constexpr (kHasCuda) {
    if (!at::hasCUDA()) GTEST_SKIP() << "no GPU here";
    const at::Tensor x = at::ones({256}, at::TensorOptions(at::kCUDA));
    cuda::Stream stream(x.device());
    stream.wait_for_current();
    stream.run([&] {
      const auto read = [&] { dropped(x).sum().item<float>(); };
      read();  // kernels are loaded, which cannot be recorded
      cuda::Graph broken, good;
      EXPECT_ANY_THROW(broken.capture(read));
      EXPECT_NO_THROW(c10::getDeviceAllocator(at::kCUDA)->emptyCache());
      EXPECT_NO_THROW(cuda::pinned_like(x));
      EXPECT_NO_THROW(read());

      at::Tensor y;
      good.capture([&] { y = dropped(x); });
      good.replay();
      const at::Tensor first = y.clone();
      good.replay();
      EXPECT_FALSE(at::equal(y, first)) << "numbers are drawn anew by each launch";
    });
  } else {
    GTEST_SKIP() << "no GPU here";
  }
}

}  // namespace
}  // namespace mezzo::kernels
