#pragma once

#include <torch/nn/module.h>

namespace mezzo::models {

/// eval() for a scope, however it is left.
class EvalGuard {
 public:
  explicit EvalGuard(torch::nn::Module& model) : model_(model), was_training_(model.is_training()) {
    model_.eval();
  }
  ~EvalGuard() { model_.train(was_training_); }
  EvalGuard(const EvalGuard&) = delete;
  EvalGuard& operator=(const EvalGuard&) = delete;

 private:
  torch::nn::Module& model_;
  bool was_training_;
};

}  // namespace mezzo::models
