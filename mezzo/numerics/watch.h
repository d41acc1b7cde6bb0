#pragma once

#include <memory>
#include <string>

#include <ATen/core/Tensor.h>

#include "mezzo/numerics/diagnosis.h"

namespace mezzo::numerics {

class Recorder;

/// Looks on while a program runs, as often as it runs, and says afterwards where the first number
/// that is not finite was born: the doctor for a step that cannot be given to diagnose() as a
/// function. Nothing is run again, so nothing is proved, and an overflow that only made finite
/// numbers wrong is not seen.
///
///   numerics::Watch watch;
///   for (const auto& item : model->named_parameters()) watch.name(item.key(), item.value());
///   ... train ...
///   std::cout << to_text(watch.report());
///
/// Follows every op of the process, on every thread, and reads each tensor that an op reads or
/// writes: a step takes about twice its time. A step is forgotten when the next forward pass
/// begins, if it left nothing bad behind; the first that did is kept, and no more is followed.
class Watch {
 public:
  /// Throws Error while another Watch lives, or a diagnosis runs.
  Watch();
  ~Watch();
  Watch(const Watch&) = delete;
  Watch& operator=(const Watch&) = delete;

  /// What to call a tensor that is there before the step: a parameter (a leaf that requires a
  /// gradient) also says near which part of a model without Scopes an op ran.
  void name(const std::string& name, const at::Tensor& tensor);

  /// What was found, most telling first; ends the watch. `loss` is not known to it.
  /// Throws Error with what went wrong while it looked.
  Diagnosis report();

 private:
  std::unique_ptr<Recorder> recorder_;
};

}  // namespace mezzo::numerics
