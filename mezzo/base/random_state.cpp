#include "mezzo/base/random_state.h"

#include <ATen/Context.h>

namespace mezzo {

RandomState::RandomState(at::Device device) {
  add(at::kCPU);
  add(device);
}

void RandomState::add(at::Device device) {
  states_[device.str()] = at::globalContext().defaultGenerator(device).get_state();
}

void RandomState::restore() const {
  for (const auto& [device, state] : states_) {
    at::Generator generator = at::globalContext().defaultGenerator(at::Device(device));
    generator.set_state(state);
  }
}

}  // namespace mezzo
