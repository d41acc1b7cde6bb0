#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "mezzo/numerics/change.h"
#include "mezzo/numerics/doctor.h"
#include "mezzo/numerics/patient_state.h"
#include "mezzo/numerics/trace.h"

namespace mezzo::numerics {

/// Something that a step leaves behind: the loss, a gradient, a parameter, what lives on.
struct Sink {
  enum class Sort { kLoss, kGradient, kParameter, kState, kResult } sort = Sort::kLoss;
  std::string name;
  std::vector<int64_t> sources;  // records that wrote its bad numbers
};

/// What a step was when it ran once more.
struct Replay {
  Trace trace;
  double loss = 0.0;
  std::string error;  // what the step threw; then the rest is as far as it came
  std::vector<Sink> bad_sinks;
  std::vector<at::Tensor> grads;   // parameter by parameter; undefined: none, or not kept
  std::vector<at::Tensor> values;  // of parameters and buffers, where they moved and are kept
  std::set<int64_t> followers;     // of its change (change.h), by their place in the step before

  bool is_finite() const { return error.empty() && bad_sinks.empty(); }
  int64_t bad_gradients() const;
};

struct ReplayOptions {
  bool hashes = false;
  bool poisons = false;        // memory that at::empty makes is filled with NaN
  bool keeps_tensors = false;  // Replay::grads and values
  const Change* change = nullptr;
  const Trace* before = nullptr;  // of the unchanged step; with change
};

/// Runs the patient's step from `state` on, followed op by op, and puts everything back.
Replay replay(const Patient& patient, const PatientState& state, const ReplayOptions& options = {});

/// The first op whose result differs between two replays of one step, in words; "" if none does.
std::string first_difference(const Trace& one, const Trace& other);

}  // namespace mezzo::numerics
