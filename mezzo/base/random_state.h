#pragma once

#include <map>
#include <string>
#include <utility>

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

namespace mezzo {

/// The state of default random generators: the CPU's, and those of other devices.
class RandomState {
 public:
  /// As it is now: the CPU's and the device's.
  explicit RandomState(at::Device device);
  /// By device, as states() gave it: "cpu", "cuda:0".
  explicit RandomState(std::map<std::string, at::Tensor> states) : states_(std::move(states)) {}

  /// Another device's generator, as it is now.
  void add(at::Device device);
  void restore() const;
  const std::map<std::string, at::Tensor>& states() const { return states_; }

 private:
  std::map<std::string, at::Tensor> states_;
};

}  // namespace mezzo
