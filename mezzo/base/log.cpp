#include "mezzo/base/log.h"

#include <cstdio>
#include <cstdlib>

#include <fmt/format.h>

namespace mezzo {
namespace {

LogSink& custom_sink() {
  static LogSink sink;
  return sink;
}

bool named_in_environment(std::string_view topic) {
  static const std::string verbose = [] {
    const char* value = std::getenv("MEZZO_VERBOSE");
    return std::string(value == nullptr ? "" : value);
  }();
  return verbose == "all" || verbose == topic;
}

}  // namespace

void set_log_sink(LogSink sink) { custom_sink() = std::move(sink); }

bool log_enabled(std::string_view topic) { return custom_sink() || named_in_environment(topic); }

void log(std::string_view topic, std::string_view text) {
  if (custom_sink()) {
    custom_sink()(topic, text);
  } else if (named_in_environment(topic)) {
    fmt::print(stderr, "mezzo: {}: {}\n", topic, text);
  }
}

}  // namespace mezzo
