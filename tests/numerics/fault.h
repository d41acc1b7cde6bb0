#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "mezzo/numerics/diagnosis.h"
#include "mezzo/numerics/doctor.h"
#include "tests/numerics/patients.h"

namespace mezzo::numerics::faults {

/// What a skilled engineer would say of a fault. What is left empty is not judged.
struct Expected {
  /// Any of these: the finding's op, or one within it.
  std::vector<std::string> ops = {};
  Direction direction = Direction::kForward;
  std::string module = {};         ///< path of Scope
  std::vector<Cause> causes = {};  ///< any of these
  bool is_swallowed = false;       ///< not judged where false
  bool is_proved = false;          ///< some remedy is proved; none is asked for where false
  std::string tensor = {};         ///< of kExternal: the name of what was bad before
  std::optional<int64_t> sample = std::nullopt;
};

/// A training step with one thing wrong.
struct Fault {
  std::string name;  ///< letters, digits and _
  std::function<Patient()> make;
  Expected expected;
  /// Whether the fault shows when a fresh patient's step runs by itself.
  std::function<bool(const Patient&)> fires;
};

/// A training step with nothing wrong, of which a naive checker may think otherwise.
struct Healthy {
  std::string name;
  std::function<Patient()> make;
};

/// Known while the rules are written and tuned.
std::vector<Fault> tuned_faults();
/// Run only once the rules are frozen.
std::vector<Fault> held_out_faults();
std::vector<Healthy> healthy_patients();

// The themes of the held-out half.
std::vector<Fault> held_out_attention();
std::vector<Fault> held_out_norms();
std::vector<Fault> held_out_losses();
std::vector<Fault> held_out_layers();
std::vector<Fault> held_out_backward();
std::vector<Fault> held_out_optimizer();
std::vector<Fault> held_out_outside();

using MakePatient = std::function<Patient(const Setup&)>;

/// A fault that ends in a loss, a gradient or a parameter that is not finite.
Fault fault(std::string name, const MakePatient& make, const Setup& setup, Expected expected);

/// One that ends in a finite loss: it differs from the same step's in fp32 by more than `tolerance`
/// of it.
Fault wrong_loss(std::string name, const MakePatient& make, const Setup& setup, Expected expected,
                 double tolerance = 0.01);

/// One that leaves the named tensor (a parameter or a buffer) as it was, although in fp32 the same
/// step moves it.
Fault frozen(std::string name, const MakePatient& make, const Setup& setup, Expected expected,
             const std::string& tensor);

/// One of which the step throws.
Fault throwing(std::string name, const MakePatient& make, const Setup& setup, Expected expected);

/// Whether loss, gradients and parameters are finite after a step.
bool is_finite_after_step(const Patient& patient);

}  // namespace mezzo::numerics::faults
