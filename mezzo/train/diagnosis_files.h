#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "mezzo/numerics/diagnosis.h"
#include "mezzo/train/run_config.h"

namespace mezzo::train {

/// A step of a run that was looked into.
struct ExaminedStep {
  int64_t number = 0;  // in the run, from 1
  RunConfig config;    // that it was run in
  numerics::Diagnosis diagnosis;
  int64_t first = 0;  // of the steps that were taken up to it; 0: it alone was
};

/// The diagnosis as JSON: docs/doctor.md has the keys. Numbers that are not finite are strings.
std::string diagnosis_json(const numerics::Diagnosis& diagnosis);

/// The same as a page (report/page.h).
std::string diagnosis_page(const ExaminedStep& step);

/// diagnosis.txt, .json and .html in `folder`, which is made. Throws Error if they cannot be
/// written.
void write_diagnosis(const std::filesystem::path& folder, const ExaminedStep& step);

}  // namespace mezzo::train
