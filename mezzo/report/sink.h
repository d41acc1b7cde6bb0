#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "mezzo/report/step_record.h"

namespace mezzo::report {

/// Somebody who wants to hear how a run goes: a progress line, a file, a test. Called from the
/// training thread, in the order of events: on_start first, on_end last and only once.
class Sink {
 public:
  virtual ~Sink() = default;
  /// How the sink is called in a note about its failure: "metrics.jsonl".
  virtual std::string name() const = 0;

  /// Whether on_step() of this step will not return before somebody lets the run go on: nothing of
  /// later steps should be under way then.
  virtual bool waits_after(int64_t step) const { return static_cast<void>(step), false; }

  virtual void on_start(const RunInfo&) {}
  virtual void on_step(const StepRecord&) {}
  virtual void on_eval(const EvalRecord&) {}
  virtual void on_gradients(const GradientRecord&) {}
  virtual void on_health(const HealthRecord&) {}
  /// One line, without its newline, about something worth knowing: a skipped step, a checkpoint.
  virtual void on_note(const std::string&) {}
  virtual void on_end(const Summary&) {}
};

/// Tells several sinks, in the order they were added. A sink that throws never stops training: it
/// is told on, as a disk that is full may have room again, and all hear of its first failure and of
/// one at the end by a note.
class Sinks : public Sink {
 public:
  void add(std::unique_ptr<Sink> sink);
  std::string name() const override { return "sinks"; }
  bool waits_after(int64_t step) const override;

  void on_start(const RunInfo& info) override;
  void on_step(const StepRecord& record) override;
  void on_eval(const EvalRecord& record) override;
  void on_gradients(const GradientRecord& record) override;
  void on_health(const HealthRecord& record) override;
  void on_note(const std::string& text) override;
  void on_end(const Summary& summary) override;

 private:
  void tell(const std::function<void(Sink&)>& event);

  std::vector<std::unique_ptr<Sink>> sinks_;
  std::set<const Sink*> failed_;  // which has been told
};

}  // namespace mezzo::report
