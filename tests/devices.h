#pragma once

#include <string>
#include <tuple>
#include <variant>

#include <gtest/gtest.h>

#include <ATen/Context.h>
#include <ATen/core/Tensor.h>

namespace mezzo::testing {

// Note [One test for all devices]
// A kernel's loops for a CPU and their twin for a GPU are held to the same expectations: a suite
// derived from OnDevice<Case> runs each of its tests on either,
//
//   class GeluOf : public OnDevice<at::ScalarType> {};
//   TEST_P(GeluOf, KeepsNaN) { EXPECT_TRUE(here(gelu(there(x))).isnan()...); }
//   INSTANTIATE_TEST_SUITE_P(Types, GeluOf, on_devices(::testing::Values(...)),
//                            device_and(name_of_case));
//
// Inputs are drawn on the CPU, and expectations are found there: they are the same for both.

/// What one test is instantiated with. Without a GPU, the tests of cuda are skipped.
template <class Case = std::monostate>
class OnDevice : public ::testing::TestWithParam<std::tuple<at::DeviceType, Case>> {
  using Base = ::testing::TestWithParam<std::tuple<at::DeviceType, Case>>;

 protected:
  void SetUp() override {
    if (device.is_cuda() && !at::hasCUDA()) GTEST_SKIP() << "no GPU here";
  }

  /// Without the device: what a test of one device would be instantiated with.
  static const Case& GetParam() { return std::get<1>(Base::GetParam()); }

  at::Tensor there(const at::Tensor& x) const { return x.defined() ? x.to(device) : x; }

  /// A result, which must lie on the device, on the CPU.
  at::Tensor here(const at::Tensor& result) const {
    EXPECT_EQ(result.device().type(), device.type());
    return result.cpu();
  }

  const at::Device device{std::get<0>(Base::GetParam())};
};

template <class Cases>
auto on_devices(const Cases& cases) {
  return ::testing::Combine(::testing::Values(at::kCPU, at::kCUDA), cases);
}

inline auto on_devices() { return on_devices(::testing::Values(std::monostate{})); }

/// The name of a test on a device, name_of_case as for a test of one device.
template <class NameOfCase>
auto device_and(const NameOfCase& name_of_case) {
  return [name_of_case](const auto& test) {
    const auto& [device, of_case] = test.param;
    return c10::DeviceTypeName(device, /*lower_case=*/true) + "_" +
           name_of_case(::testing::TestParamInfo(of_case, test.index));
  };
}

/// That of one without a case.
inline std::string device_alone(
    const ::testing::TestParamInfo<std::tuple<at::DeviceType, std::monostate>>& test) {
  return c10::DeviceTypeName(std::get<0>(test.param), /*lower_case=*/true);
}

}  // namespace mezzo::testing
