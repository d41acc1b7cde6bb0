#pragma once

#include <string>
#include <utility>
#include <vector>

#include "mezzo/train/run_config.h"

namespace mezzo::train {

using Facts = std::vector<std::pair<std::string, std::string>>;

/// What a figure must be read with: cpu, isa, threads, device, memory.
Facts machine_facts(const RunConfig& config);

/// The machine's memory.
double memory_bytes();

/// mezzo and libtorch.
Facts version_facts();

/// Now, as ISO 8601 has it, in UTC.
std::string utc_now();

}  // namespace mezzo::train
