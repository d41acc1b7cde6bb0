#pragma once

#include <deque>
#include <functional>
#include <optional>
#include <ostream>
#include <string>

#include "mezzo/report/sink.h"
#include "mezzo/report/sparkline.h"
#include "mezzo/report/terminal.h"

namespace mezzo::report {

struct ProgressOptions {
  Terminal terminal;
  std::function<int()> width = [] { return 80; };  // columns, asked at each redraw
  std::function<double()> now_s;                   // a steady clock; empty: the system's
  double redraw_every_s = 0.1;                     // on a terminal
  double line_every_s = 5.0;                       // elsewhere
};

/// How the run goes, for a person. On a terminal, one line redrawn in place below the notes and
/// evaluations; it never wraps, and what does not fit is left out, the least important first.
/// Elsewhere, plain lines: the first step, then one every `line_every_s`, and the last. Both begin
/// with the settings and end with what the run came to. The time of a step and tokens per second
/// are means over the last seconds. Methods throw Error if the stream fails.
/// The stream must outlive the sink.
class Progress : public Sink {
 public:
  Progress(std::ostream& out, ProgressOptions options);
  /// Leaves the cursor on a fresh line.
  ~Progress() override;

  std::string name() const override { return "progress"; }
  void on_start(const RunInfo& info) override;
  void on_step(const StepRecord& record) override;
  void on_eval(const EvalRecord& record) override;
  void on_note(const std::string& text) override;
  void on_end(const Summary& summary) override;

 private:
  StepRecord with_recent_pace(StepRecord record);
  void print_line(const std::string& text);
  void draw_live_line();
  std::string live_line(int width) const;
  std::string bar(int columns) const;
  double seconds_left() const;
  bool is_last_step() const;

  std::ostream& out_;
  ProgressOptions options_;
  RunInfo info_;
  std::optional<StepRecord> last_;
  std::optional<EvalRecord> last_eval_;
  Sparkline losses_;
  std::deque<StepRecord> recent_;  // of the last seconds
  double recent_ms_ = 0, recent_tokens_ = 0;
  int64_t skipped_steps_ = 0;
  int64_t explained_skips_ = 0;
  double started_s_ = 0;
  double shown_s_ = 0;  // when the live line was last drawn, or the last plain line printed
  bool live_line_is_shown_ = false;
};

}  // namespace mezzo::report
