#pragma once

#include <string>

namespace mezzo::report {

/// report.html: one file that opens from disk without a network, with the figures of a comparison
/// or of a single run. json: what comparison_json() gives. While the run is on, the page loads
/// itself anew every ten seconds.
std::string report_page(const std::string& json, bool is_running);

}  // namespace mezzo::report
