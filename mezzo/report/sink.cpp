#include "mezzo/report/sink.h"

#include <algorithm>
#include <exception>

#include <fmt/format.h>

namespace mezzo::report {
namespace {

/// Why the event could not be told, or "" if it was.
std::string failure_of(Sink& sink, const std::function<void(Sink&)>& event) {
  try {
    event(sink);
    return "";
  } catch (const std::exception& error) {
    return fmt::format("{} failed, which does not stop the run: {}", sink.name(), error.what());
  } catch (...) {
    return fmt::format("{} failed, which does not stop the run", sink.name());
  }
}

}  // namespace

void Sinks::add(std::unique_ptr<Sink> sink) { sinks_.push_back(std::move(sink)); }

void Sinks::tell(const std::function<void(Sink&)>& event) {
  std::vector<std::string> notes;
  for (const std::unique_ptr<Sink>& sink : sinks_) {
    std::string failure = failure_of(*sink, event);
    if (!failure.empty() && failed_.insert(sink.get()).second) notes.push_back(std::move(failure));
  }
  // Another sink may fail at hearing this; the recursion ends because each is told of once.
  for (const std::string& note : notes) on_note(note);
}

bool Sinks::waits_after(int64_t step) const {
  return std::any_of(sinks_.begin(), sinks_.end(),
                     [&](const auto& sink) { return sink->waits_after(step); });
}

void Sinks::on_start(const RunInfo& info) {
  tell([&](Sink& sink) { sink.on_start(info); });
}
void Sinks::on_step(const StepRecord& record) {
  tell([&](Sink& sink) { sink.on_step(record); });
}
void Sinks::on_eval(const EvalRecord& record) {
  tell([&](Sink& sink) { sink.on_eval(record); });
}

void Sinks::on_gradients(const GradientRecord& record) {
  tell([&](Sink& sink) { sink.on_gradients(record); });
}
void Sinks::on_health(const HealthRecord& record) {
  tell([&](Sink& sink) { sink.on_health(record); });
}
void Sinks::on_note(const std::string& text) {
  tell([&](Sink& sink) { sink.on_note(text); });
}
void Sinks::on_end(const Summary& summary) {
  failed_.clear();  // what still fails now is not whole
  tell([&](Sink& sink) { sink.on_end(summary); });
}

}  // namespace mezzo::report
