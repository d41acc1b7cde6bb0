#include "mezzo/amp/autocast.h"

#include <array>
#include <atomic>
#include <stdexcept>
#include <thread>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/autocast_mode.h>
#include <c10/core/InferenceMode.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/variable.h>

#include "mezzo/amp/cast_cache.h"
#include "mezzo/amp/cast_policy.h"
#include "mezzo/base/check.h"
#include "tests/testing.h"

namespace mezzo {
namespace {

at::Tensor weight() { return at::ones({4, 4}).requires_grad_(); }
at::ScalarType product_dtype(const at::Tensor& x, const at::Tensor& w) {
  return at::linear(x, w).scalar_type();
}
at::ScalarType product_dtype() { return product_dtype(at::ones({2, 4}), at::ones({4, 4})); }

TEST(Autocast, RunsProductsIn16BitsAndLossesInFp32) {
  const Autocast autocast(at::kCPU, at::kHalf);
  const at::Tensor logits = at::linear(at::ones({2, 4}), at::ones({4, 4}));
  EXPECT_EQ(logits.scalar_type(), at::kHalf);
  EXPECT_EQ(at::cross_entropy_loss(logits, at::zeros({2}, at::kLong)).scalar_type(), at::kFloat);
}

TEST(Autocast, LeavesNothingBehind) {
  { const Autocast autocast(at::kCPU, at::kHalf); }
  EXPECT_EQ(product_dtype(), at::kFloat);
  EXPECT_FALSE(at::autocast::is_autocast_enabled(at::kCPU));
  EXPECT_EQ(at::autocast::get_autocast_dtype(at::kCPU), at::kBFloat16);
}

TEST(Autocast, DefaultDtypeOnACpuIsBf16) {
  const Autocast autocast(at::kCPU);
  EXPECT_EQ(product_dtype(), at::kBFloat16);
}

TEST(Autocast, DisabledIslandRunsInFp32AndRestoresTheRegionAroundIt) {
  const Autocast autocast(at::kCPU, at::kHalf);
  {
    const Autocast island(at::kCPU, std::nullopt, /*enabled=*/false);
    EXPECT_EQ(product_dtype(), at::kFloat);
  }
  EXPECT_EQ(product_dtype(), at::kHalf);
}

/// libtorch's own region, to show what Mezzo's does better.
class LibtorchAutocast {
 public:
  explicit LibtorchAutocast(at::ScalarType dtype)
      : outer_enabled_(at::autocast::is_autocast_enabled(at::kCPU)),
        outer_dtype_(at::autocast::get_autocast_dtype(at::kCPU)) {
    at::autocast::set_autocast_enabled(at::kCPU, true);
    at::autocast::set_autocast_dtype(at::kCPU, dtype);
    at::autocast::increment_nesting();
  }
  ~LibtorchAutocast() {
    if (at::autocast::decrement_nesting() == 0) at::autocast::clear_cache();
    at::autocast::set_autocast_enabled(at::kCPU, outer_enabled_);
    at::autocast::set_autocast_dtype(at::kCPU, outer_dtype_);
  }

 private:
  bool outer_enabled_;
  at::ScalarType outer_dtype_;
};

struct MezzoAutocast : Autocast {
  explicit MezzoAutocast(at::ScalarType dtype) : Autocast(at::kCPU, dtype) {}
};

template <class Region>
at::ScalarType product_in_an_fp16_region_within_one_of_bf16() {
  const at::Tensor w = weight(), x = at::ones({2, 4});
  const Region bf16(at::kBFloat16);
  product_dtype(x, w);
  const Region fp16(at::kHalf);
  return product_dtype(x, w);
}

TEST(AutocastCache, KnowsTheTypeOfItsCasts) {
  // libtorch hands the bf16 weight to the fp16 region.
  EXPECT_THROW(product_in_an_fp16_region_within_one_of_bf16<LibtorchAutocast>(), c10::Error);
  EXPECT_EQ(product_in_an_fp16_region_within_one_of_bf16<MezzoAutocast>(), at::kHalf);
}

template <class Region>
float product_after_an_update_within_the_region() {
  const at::Tensor w = weight(), x = at::ones({2, 4});
  const Region region(at::kHalf);
  product_dtype(x, w);
  {
    const at::NoGradGuard no_grad;
    w.fill_(3.0);
  }
  return at::linear(x, w).max().template item<float>();
}

TEST(AutocastCache, SeesAnUpdateOfAWeight) {
  EXPECT_EQ(product_after_an_update_within_the_region<LibtorchAutocast>(), 4.0f);  // of old weights
  EXPECT_EQ(product_after_an_update_within_the_region<MezzoAutocast>(), 12.0f);
}

/// Whether the cast of a weight is still kept after another thread has left its region.
template <class Region, class Cast>
bool survives_another_threads_region(const Cast& cast) {
  const at::Tensor w = weight();
  const Region region(at::kHalf);
  const at::Tensor before = cast(w);
  std::thread([] { const Region elsewhere(at::kHalf); }).join();
  return cast(w).is_same(before);
}

TEST(AutocastCache, BelongsToItsThread) {
  EXPECT_FALSE(survives_another_threads_region<LibtorchAutocast>(
      [](const at::Tensor& w) { return at::autocast::cached_cast(at::kHalf, w, at::kCPU); }));
  EXPECT_TRUE(survives_another_threads_region<MezzoAutocast>(
      [](const at::Tensor& w) { return cast_for_autocast(w, at::kHalf, at::kCPU); }));
}

TEST(AutocastCache, EndsWithTheRegion) {
  const at::Tensor w = weight();
  at::Tensor first;
  {
    const Autocast autocast(at::kCPU, at::kHalf);
    first = cast_for_autocast(w, at::kHalf, at::kCPU);
    EXPECT_TRUE(cast_for_autocast(w, at::kHalf, at::kCPU).is_same(first));
  }
  const Autocast autocast(at::kCPU, at::kHalf);
  EXPECT_FALSE(cast_for_autocast(w, at::kHalf, at::kCPU).is_same(first));
}

TEST(AutocastCache, KeepsNoWeightAliveThroughARegionOfLibtorchs) {
  const CastPolicyGuard guard(CastPolicy::mezzo());
  at::Tensor w = weight();
  const c10::weak_intrusive_ptr<c10::TensorImpl> life(w.getIntrusivePtr());
  {
    const LibtorchAutocast region(at::kHalf);
    EXPECT_EQ(product_dtype(at::ones({2, 4}), w), at::kHalf);
  }
  w.reset();
  EXPECT_TRUE(life.expired());
}

TEST(AutocastCache, OfAnExtensionKnowsTheTypeOfItsCastsAcrossADisabledIsland) {
  const at::Tensor w = weight();
  const auto cast = [&](at::ScalarType dtype) {
    return at::autocast::cached_cast(dtype, w, at::kCPU).scalar_type();
  };
  const Autocast fp16(at::kCPU, at::kHalf);
  EXPECT_EQ(cast(at::kHalf), at::kHalf);
  const Autocast island(at::kCPU, std::nullopt, /*enabled=*/false);
  const Autocast bf16(at::kCPU, at::kBFloat16);
  EXPECT_EQ(cast(at::kBFloat16), at::kBFloat16);
}

TEST(AutocastCache, DoesNotMistakeANewWeightForOneThatDiedAtItsAddress) {
  const Autocast autocast(at::kCPU, at::kHalf);
  for (int i = 0; i < 100; ++i) {
    const at::Tensor w = at::full({4, 4}, i, at::kFloat).requires_grad_();
    EXPECT_EQ(cast_for_autocast(w, at::kHalf, at::kCPU).max().item<float>(), i);
  }
}

TEST(AutocastCache, ACastMadeWithoutGradStillCarriesTheGradientLater) {
  const at::Tensor w = weight(), x = at::ones({2, 4});
  const Autocast autocast(at::kCPU, at::kHalf);
  {
    const at::NoGradGuard no_grad;
    at::linear(x, w);
  }
  at::linear(x, w).sum().backward();
  EXPECT_TRUE(w.grad().defined());
}

TEST(AutocastCache, ACastMadeBelowAutogradTakesNoGradientFromALaterUse) {
  const at::Tensor w = weight(), x = at::ones({2, 4});
  const Autocast autocast(at::kCPU, at::kHalf);
  {
    const at::AutoDispatchBelowADInplaceOrView as_in_a_custom_ops_kernel;
    at::linear(x, w);
  }
  const at::Tensor y = at::linear(x, w);
  ASSERT_TRUE(y.requires_grad());
  y.sum().backward();
  EXPECT_TRUE(w.grad().defined());
}

TEST(Autocast, RunsUnderInferenceMode) {
  const at::Tensor w = weight();
  const c10::InferenceMode inference;
  const Autocast autocast(at::kCPU, at::kHalf);
  EXPECT_EQ(product_dtype(at::ones({2, 4}), w), at::kHalf);
}

TEST(Autocast, TakesAWeightThatWasMadeInInferenceMode) {
  at::Tensor w;
  {
    const c10::InferenceMode inference;
    w = weight();
  }
  const at::NoGradGuard no_grad;
  const Autocast autocast(at::kCPU, at::kHalf);
  EXPECT_EQ(product_dtype(at::ones({2, 4}), w), at::kHalf);
}

TEST(Autocast, DoubleBackwardThroughARegionIsThatOfFp32) {
  const auto gradient_of_penalty = [](bool enabled) {
    const at::Tensor w = weight(), x = at::ones({2, 4}).requires_grad_();
    at::Tensor loss;
    {
      const Autocast autocast(at::kCPU, at::kBFloat16, enabled);
      loss = at::linear(x, w).pow(2).sum();
    }
    const at::Tensor grad = torch::autograd::grad({loss}, {x}, {}, true, /*create_graph=*/true)[0];
    grad.pow(2).sum().backward();
    return w.grad().clone();
  };
  // Sums of ones, powers of two: exact in bf16.
  EXPECT_TRUE(at::equal(gradient_of_penalty(true), gradient_of_penalty(false)));
}

TEST(Autocast, ThreadsWithRegionsOfTheirOwnDoNotDisturbEachOther) {
  const at::Tensor w = weight(), x = at::ones({2, 4});
  const std::array<at::ScalarType, 2> dtypes = {at::kHalf, at::kBFloat16};
  std::atomic<int> wrong = 0;
  std::vector<std::thread> threads;
  for (const at::ScalarType dtype : dtypes) {
    threads.emplace_back([&, dtype] {
      for (int i = 0; i < 200; ++i) {
        const Autocast autocast(at::kCPU, dtype);
        const at::Tensor y = at::linear(x, w);
        if (y.scalar_type() != dtype || y.max().item<float>() != 4.0f) ++wrong;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
}

TEST(Autocast, RestoresOnAnException) {
  EXPECT_THROW(
      {
        const Autocast autocast(at::kCPU, at::kHalf);
        throw std::runtime_error("in the region");
      },
      std::runtime_error);
  EXPECT_EQ(product_dtype(), at::kFloat);
}

TEST(Autocast, BelongsToItsThread) {
  const Autocast autocast(at::kCPU, at::kHalf);
  at::ScalarType elsewhere = at::kHalf;
  std::thread([&] { elsewhere = product_dtype(); }).join();
  EXPECT_EQ(elsewhere, at::kFloat);
}

TEST(Autocast, GradientsOfFp32WeightsAreFp32WhereverBackwardRuns) {
  const at::Tensor outside = weight(), inside = weight();
  at::Tensor loss;
  {
    const Autocast autocast(at::kCPU, at::kHalf);
    loss = at::linear(at::ones({2, 4}), outside).sum();
    at::linear(at::ones({2, 4}), inside).sum().backward();
  }
  loss.backward();
  EXPECT_EQ(outside.grad().scalar_type(), at::kFloat);
  EXPECT_TRUE(at::equal(outside.grad(), inside.grad()));
  EXPECT_TRUE(at::equal(outside.grad(), at::full({4, 4}, 2.0)));
}

TEST(Autocast, CastsAWeightOnceARegionAndAgainInTheNext) {
  const at::Tensor w = weight(), x = at::ones({2, 4});
  {
    const Autocast autocast(at::kCPU, at::kHalf);
    at::linear(x, w);
    at::NoGradGuard no_grad;
    w.fill_(3.0);
  }
  const Autocast autocast(at::kCPU, at::kHalf);
  EXPECT_EQ(at::linear(x, w).max().item<float>(), 12.0f);
}

TEST(Autocast, KeepsACastUnlessItsCacheIsOff) {
  const at::Tensor w = weight();
  const auto is_kept = [&](bool cache_enabled) {
    const Autocast autocast(at::kCPU, at::kHalf, /*enabled=*/true, cache_enabled);
    const at::Tensor cast = cast_for_autocast(w, at::kHalf, at::kCPU);
    return cast.is_same(cast_for_autocast(w, at::kHalf, at::kCPU));
  };
  EXPECT_TRUE(is_kept(true));
  EXPECT_FALSE(is_kept(false));
}

TEST(Autocast, SeesAWriteBehindAutogradsBackOnceItsCacheIsCleared) {
  const at::Tensor w = weight(), x = at::ones({2, 4});
  const Autocast autocast(at::kCPU, at::kHalf);
  at::linear(x, w);
  w.data().fill_(3.0);
  clear_autocast_cache();
  EXPECT_EQ(at::linear(x, w).max().item<float>(), 12.0f);
}

TEST(Autocast, RefusesADtypeThatIsNot16Bit) {
  EXPECT_THROW_WITH(Autocast(at::kCPU, at::kFloat),
                    "dtype must be Half (fp16) or BFloat16, but is Float");
  EXPECT_FALSE(at::autocast::is_autocast_enabled(at::kCPU));
}

TEST(Autocast, TakesAnyDtypeWhereItIsNotEnabled) {
  const Autocast autocast(at::kCPU, at::kFloat, /*enabled=*/false);
  EXPECT_EQ(at::linear(at::ones({2, 4}), weight()).scalar_type(), at::kFloat);
}

TEST(Autocast, RefusesADeviceWithoutAutocast) {
  EXPECT_THROW_WITH(Autocast(at::DeviceType::FPGA, at::kHalf), "device fpga has no autocast");
}

}  // namespace
}  // namespace mezzo
