#include "mezzo/train/step_graph.h"

#include <algorithm>
#include <exception>

namespace mezzo::train {

void StepGraph::run(const std::string& shape, const std::function<void()>& work) {
  if (shape != shape_) {
    recording_.reset();  // first: its memory is for the next one
    shape_ = shape;
    warm_up_steps_ = 0;
  }
  if (recording_ == nullptr && refusal_.empty() && warm_up_steps_ == kWarmUpSteps) {
    try {
      recording_ = record_(work);
    } catch (const std::exception& error) {
      refusal_ = error.what();
      refusal_.resize(std::min(refusal_.find('\n'), refusal_.size()));  // libtorch's go on for long
    }
  }
  if (recording_ != nullptr) {
    recording_->launch();
  } else {
    work();
    if (refusal_.empty()) ++warm_up_steps_;
  }
}

}  // namespace mezzo::train
