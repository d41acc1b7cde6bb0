#include "mezzo/numerics/watch.h"

#include <algorithm>
#include <limits>

#include "mezzo/base/check.h"
#include "mezzo/numerics/ends.h"
#include "mezzo/numerics/recorder.h"
#include "mezzo/numerics/roots.h"

namespace mezzo::numerics {

Watch::Watch()
    : recorder_(std::make_unique<Recorder>(RecorderOptions{.forgets_good_steps = true})) {}

Watch::~Watch() = default;

void Watch::name(const std::string& name, const at::Tensor& tensor) {
  MEZZO_CHECK(recorder_ != nullptr, "numerics.Watch", "{} is named after the report", name);
  recorder_->name(name, tensor, tensor.is_leaf() && tensor.requires_grad());
}

Diagnosis Watch::report() {
  MEZZO_CHECK(recorder_ != nullptr, "numerics.Watch",
              "the report was given already. Hint: one Watch, one report");
  const std::unique_ptr<Recorder> recorder = std::move(recorder_);
  recorder->finish();
  Replay seen;
  seen.trace = recorder->take_trace();
  for (const int64_t end : bad_ends(seen.trace))
    seen.bad_sinks.push_back({Sink::Sort::kResult, name_of_end(seen.trace, end), {end}});
  Diagnosis diagnosis;
  diagnosis.loss = std::numeric_limits<double>::quiet_NaN();
  diagnosis.ops = std::count_if(seen.trace.records.begin(), seen.trace.records.end(),
                                [](const OpRecord& record) { return record.op != nullptr; });
  diagnosis.unread = seen.trace.unread;
  diagnosis.not_finite = not_finite_of(seen);
  for (const Root& root : find_roots(seen)) {
    if (!root.is_swallowed) diagnosis.findings.push_back(finding_of(root, seen, Patient{}));
  }
  return diagnosis;
}

}  // namespace mezzo::numerics
