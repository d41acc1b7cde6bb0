#pragma once

#include <filesystem>
#include <string>

#include "mezzo/numerics/diagnosis.h"

namespace mezzo::train {

/// The diagnosis as JSON: docs/doctor.md has the keys. Numbers that are not finite are strings.
std::string diagnosis_json(const numerics::Diagnosis& diagnosis);

/// diagnosis.txt and diagnosis.json in `folder`, which is made. Throws Error if they cannot be
/// written.
void write_diagnosis(const std::filesystem::path& folder, const numerics::Diagnosis& diagnosis);

}  // namespace mezzo::train
