#pragma once

#include <functional>
#include <string_view>

namespace mezzo {

/// Where the library's own remarks go, by topic ("dispatch": which kernel was chosen and why
/// another was passed over; "memory": what the system refused). The library itself never prints: by
/// default a remark is written to stderr only if the environment variable MEZZO_VERBOSE names its
/// topic (MEZZO_VERBOSE=dispatch, or all).
using LogSink = std::function<void(std::string_view topic, std::string_view text)>;

/// Replaces the sink for the whole process; an empty one restores the default. Not for use while
/// other threads log.
void set_log_sink(LogSink sink);

/// True if a remark on `topic` would be heard; ask before composing a costly one.
bool log_enabled(std::string_view topic);

void log(std::string_view topic, std::string_view text);

}  // namespace mezzo
