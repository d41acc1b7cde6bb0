#include "mezzo/report/pacer.h"

#include <limits>
#include <string>
#include <utility>

namespace mezzo::report {

Pacer::Pacer(std::istream& in, std::ostream& out, std::function<void()> on_hang_up)
    : in_(in), out_(out), on_hang_up_(std::move(on_hang_up)) {}

void Pacer::on_start(const RunInfo& info) { wait(info.start_step); }

void Pacer::on_step(const StepRecord& record) {
  if (waits_after(record.step)) wait(record.step);
}

void Pacer::on_end(const Summary&) { out_ << "end" << std::endl; }

void Pacer::wait(int64_t step) {
  out_ << "at " << step << std::endl;
  std::string word;
  if (in_ >> word >> until_ && word == "go") return;
  until_ = std::numeric_limits<int64_t>::max();
  on_hang_up_();
}

}  // namespace mezzo::report
