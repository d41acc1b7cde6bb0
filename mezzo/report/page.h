#pragma once

#include <string>

namespace mezzo::report {

/// One file that opens from disk without a network, with the figures of a comparison, a single run
/// or a diagnosis, as "kind" in the JSON says: "compare", "train" (comparison_json.h) or
/// "diagnosis" (train/diagnosis_files.h). While the run is on, the page loads itself anew every ten
/// seconds.
std::string report_page(const std::string& json, bool is_running);

}  // namespace mezzo::report
