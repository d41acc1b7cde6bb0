#pragma once

#include <string>

#include <ATen/core/grad_mode.h>

#include "mezzo/base/safetensors.h"
#include "mezzo/models/gpt2.h"
#include "tests/models/roundings.h"

namespace mezzo::models {

/// The model of golden/gpt2_tiny.safetensors (tests/reference/make_gpt2_goldens.py).
inline ModelConfig tiny_config() {
  return {.layers = 2, .heads = 2, .width = 32, .context = 16, .vocab_size = 64};
}

inline const SafeTensors& tiny_golden() {
  static const SafeTensors golden = load_safetensors(MEZZO_TEST_DATA "/gpt2_tiny.safetensors");
  return golden;
}

inline at::Tensor tiny_golden(const std::string& name) { return tiny_golden().tensors.at(name); }

/// With the golden file's weights, in `dtype`.
inline GPT2 tiny_gpt2(at::ScalarType dtype) {
  GPT2 model(tiny_config());
  model->to(dtype);
  const at::NoGradGuard no_grad;
  for (auto& parameter : model->named_parameters()) {
    parameter.value().copy_(tiny_golden("weight." + parameter.key()));
  }
  return model;
}

}  // namespace mezzo::models
