#include "tests/numerics/fault.h"

#include <cmath>
#include <exception>
#include <utility>

namespace mezzo::numerics::faults {
namespace {

using at::Tensor;

bool is_finite(const Tensor& tensor) {
  return !tensor.defined() || tensor.isfinite().all().item<bool>();
}

Setup in_fp32(Setup setup) {
  setup.dtype = at::kFloat;
  setup.is_autocast = false;
  return setup;
}

/// How far a step moves a parameter or a buffer: the largest change of an element.
double movement(const Patient& patient, const std::string& name) {
  Tensor watched;
  for (const auto* tensors : {&patient.parameters, &patient.buffers})
    for (const auto& [its_name, tensor] : *tensors)
      if (its_name == name) watched = tensor.detach();
  const Tensor before = watched.clone();
  patient.step();
  return (watched - before).abs().max().item<double>();
}

}  // namespace

bool is_finite_after_step(const Patient& patient) {
  bool all = is_finite(patient.step());
  for (const auto& [name, parameter] : patient.parameters)
    all = all && is_finite(parameter.detach()) && is_finite(parameter.grad());
  return all;
}

Fault fault(std::string name, const MakePatient& make, const Setup& setup, Expected expected) {
  return {.name = std::move(name) + "_" + to_string(setup),
          .make = [make, setup] { return make(setup); },
          .expected = std::move(expected),
          .fires = [](const Patient& patient) { return !is_finite_after_step(patient); }};
}

Fault wrong_loss(std::string name, const MakePatient& make, const Setup& setup, Expected expected,
                 double tolerance) {
  Fault silent = fault(std::move(name), make, setup, std::move(expected));
  silent.fires = [make, setup, tolerance](const Patient& patient) {
    const double loss = patient.step().item<double>();
    const double right = make(in_fp32(setup)).step().item<double>();
    return std::isfinite(loss) && std::abs(loss - right) > tolerance * std::abs(right);
  };
  return silent;
}

Fault frozen(std::string name, const MakePatient& make, const Setup& setup, Expected expected,
             const std::string& tensor) {
  Fault silent = fault(std::move(name), make, setup, std::move(expected));
  silent.fires = [make, setup, tensor](const Patient& patient) {
    return movement(patient, tensor) == 0.0 && movement(make(in_fp32(setup)), tensor) > 0.0;
  };
  return silent;
}

Fault throwing(std::string name, const MakePatient& make, const Setup& setup, Expected expected) {
  Fault loud = fault(std::move(name), make, setup, std::move(expected));
  loud.fires = [](const Patient& patient) {
    try {
      patient.step();
    } catch (const std::exception&) {
      return true;
    }
    return false;
  };
  return loud;
}

}  // namespace mezzo::numerics::faults
