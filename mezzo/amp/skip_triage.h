#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace mezzo {

/// Why a step was skipped. The first three are the search for the scale: no alarm.
enum class SkipCause {
  kSettling,     ///< no scale has worked yet: the first one is meant to be too high
  kGrowthProbe,  ///< the scale had just grown, and what it was before bears out that this is why
  kOnTrial,      ///< it has not yet held for a growth interval, and gradients were near the end
  kUnexplained,
};

/// Words: "probe: the scale had just grown"; empty for kUnexplained.
std::string describe(SkipCause cause);

/// Tells skipped steps that the search for the loss scale explains from those that it does not. Is
/// told of all steps, in order; computes, and reads no tensor.
class SkipTriage {
 public:
  /// is_dynamic: whether the scale moves at all; one that does not explains no skip.
  /// max: the largest number of the type that gradients are computed in; 65504 for fp16.
  /// growth_interval: the scaler's; good steps after which a scale has proved itself.
  SkipTriage(bool is_dynamic, double max, int64_t growth_interval)
      : is_dynamic_(is_dynamic), max_(max), growth_interval_(growth_interval) {}

  /// A step was taken. largest: the largest magnitude of its gradients, times `scale`; none where
  /// that is not known.
  void on_good_step(double scale, std::optional<double> largest);

  /// A step was skipped at `scale`. A loss that is not finite is never explained: it is not scaled.
  SkipCause on_skip(double scale, bool is_loss_finite) const;

 private:
  struct GoodSteps {  // the last ones, all at one scale
    double scale;
    std::optional<double> last;     // largest gradient of the last one
    std::optional<double> largest;  // and of all of them
    int64_t count;
  };

  bool is_dynamic_;
  double max_;
  int64_t growth_interval_;
  std::optional<GoodSteps> good_;
  double proved_ = 0.0;  // the highest scale that has held for a growth interval
};

}  // namespace mezzo
