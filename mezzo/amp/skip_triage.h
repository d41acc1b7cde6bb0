#pragma once

#include <optional>
#include <string>

namespace mezzo {

/// Why a step was skipped. The first two are the search for the scale: no alarm.
enum class SkipCause {
  kSettling,     ///< no scale has worked yet: the first one is meant to be too high
  kGrowthProbe,  ///< the scale had just grown, and what it was before bears out that this is why
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
  SkipTriage(bool is_dynamic, double max) : is_dynamic_(is_dynamic), max_(max) {}

  /// A step was taken. largest: the largest magnitude of its gradients, times `scale`; none where
  /// that is not known.
  void on_good_step(double scale, std::optional<double> largest);

  /// A step was skipped at `scale`. A loss that is not finite is never explained: it is not scaled.
  SkipCause on_skip(double scale, bool is_loss_finite) const;

 private:
  struct GoodStep {
    double scale;
    std::optional<double> largest;
  };

  bool is_dynamic_;
  double max_;
  std::optional<GoodStep> last_;
};

}  // namespace mezzo
