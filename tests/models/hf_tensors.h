#pragma once

#include <map>
#include <string>

#include <gtest/gtest.h>

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>

#include "mezzo/models/model_config.h"
#include "tests/close.h"

namespace mezzo::models {

using Tensors = std::map<std::string, at::Tensor>;

/// A GPT2 or a Llama of this shape with these parameters.
template <class Model>
Model with_weights(const ModelConfig& config, const Tensors& weights) {
  Model model(config);
  const at::NoGradGuard no_grad;
  for (auto& parameter : model->named_parameters())
    parameter.value().copy_(weights.at(parameter.key()));
  return model;
}

template <class Model>
Tensors weights_of(const Model& model) {
  Tensors weights;
  for (const auto& item : model->named_parameters()) weights[item.key()] = item.value().detach();
  return weights;
}

inline void expect_same_bits(const Tensors& actual, const Tensors& expected) {
  ASSERT_EQ(actual.size(), expected.size());
  for (const auto& [name, tensor] : expected) {
    SCOPED_TRACE(name);
    ASSERT_TRUE(actual.contains(name));
    EXPECT_BIT_EQUAL(actual.at(name), tensor);
  }
}

}  // namespace mezzo::models
