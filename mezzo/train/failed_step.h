#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "mezzo/amp/precision.h"
#include "mezzo/models/gpt2.h"
#include "mezzo/numerics/doctor.h"
#include "mezzo/train/batch.h"

namespace mezzo::train {

/// The random generators of the CPU and of a device, kept.
class RandomState {
 public:
  explicit RandomState(at::Device device);
  void restore() const;

 private:
  std::vector<std::pair<at::Device, at::Tensor>> states_;
};

/// Forward and backward over the batches with the loss scaled by `scale`, as a step does them; the
/// model outlives the patient. One batch is named "tokens" and "targets", several "tokens.0" ...
numerics::Patient patient_of(models::GPT2& model, const std::vector<Batch>& batches,
                             const PrecisionMode& mode, double scale);

/// diagnosis.txt and diagnosis.json in `folder`, which is made. Throws Error if they cannot be
/// written.
void write_diagnosis(const std::filesystem::path& folder, const numerics::Diagnosis& diagnosis);

/// The diagnosis as JSON: docs/doctor.md has the keys. Numbers that are not finite are strings.
std::string diagnosis_json(const numerics::Diagnosis& diagnosis);

}  // namespace mezzo::train
