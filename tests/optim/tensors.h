#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include <ATen/ATen.h>

#include "mezzo/optim/named_state.h"
#include "tests/close.h"
#include "tests/testing.h"

namespace mezzo::testing {

using Tensors = std::map<std::string, at::Tensor>;

/// Normally distributed, the same for a seed.
inline at::Tensor some(at::IntArrayRef shape, int64_t seed, at::ScalarType dtype = at::kFloat) {
  return at::randn(shape, at::detail::createCPUGenerator(seed), at::dtype(at::kFloat)).to(dtype);
}

/// The one number that a scaled step takes as grad_scale or found_inf.
inline at::Tensor flag(double value) { return at::full({}, value, at::kFloat); }

inline Tensors cloned(Tensors tensors) {
  for (auto& [key, tensor] : tensors) tensor = tensor.detach().clone();
  return tensors;
}

/// All that a step may change, as it is now: the parameters, and what is remembered of them.
template <class Optimizer>
Tensors snapshot(Optimizer& optimizer, const optim::NamedParameters& named) {
  Tensors all = optimizer.named_state(named);
  for (const auto& parameter : named) all["param." + parameter.key()] = parameter.value();
  return cloned(std::move(all));
}

/// Bit for bit.
/// @{
inline void expect_equal(const Tensors& actual, const Tensors& expected) {
  ASSERT_EQ(actual.size(), expected.size());
  for (const auto& [key, tensor] : expected) {
    SCOPED_TRACE(key);
    EXPECT_BIT_EQUAL(actual.at(key), tensor);
  }
}

inline void expect_equal(const std::vector<at::Tensor>& actual,
                         const std::vector<at::Tensor>& expected) {
  ASSERT_EQ(actual.size(), expected.size());
  for (size_t i = 0; i < expected.size(); ++i) EXPECT_BIT_EQUAL(actual[i], expected[i]);
}
/// @}

}  // namespace mezzo::testing
