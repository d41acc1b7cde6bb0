#pragma once

#include <cstdint>
#include <functional>
#include <istream>
#include <ostream>

#include "mezzo/report/sink.h"

namespace mezzo::report {

/// Lets another process say when a run may go on, so that several runs can take turns on a machine.
/// At its start, and whenever it has done the steps it was allowed, the run writes "at STEP" to
/// `out` and waits for "go STEP" on `in`: go on until that step. At its end it writes "end".
class Pacer : public Sink {
 public:
  /// on_hang_up: called once when `in` ends; the run then goes on without waiting.
  Pacer(std::istream& in, std::ostream& out, std::function<void()> on_hang_up);

  std::string name() const override { return "pacer"; }
  bool waits_after(int64_t step) const override { return step >= until_; }
  void on_start(const RunInfo& info) override;
  void on_step(const StepRecord& record) override;
  void on_end(const Summary& summary) override;

 private:
  void wait(int64_t step);

  std::istream& in_;
  std::ostream& out_;
  std::function<void()> on_hang_up_;
  int64_t until_ = 0;
};

}  // namespace mezzo::report
