#include "mezzo/train/range_warning.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include <fmt/format.h>

#include "mezzo/base/float_format.h"

namespace mezzo::train {
namespace {

/// A straight line through points, by least squares.
struct Line {
  double slope = 0.0;
  double fit = 0.0;  // r^2: 1 where all points lie on it
};

template <class Points>
Line line_through(const Points& points) {
  const auto n = static_cast<double>(points.size());
  double x = 0, y = 0, xx = 0, xy = 0, yy = 0;
  for (const auto& point : points) {
    const auto at = static_cast<double>(point.step - points.front().step);
    x += at, y += point.bits, xx += at * at, xy += at * point.bits, yy += point.bits * point.bits;
  }
  const double of_x = n * xx - x * x, of_y = n * yy - y * y, of_both = n * xy - x * y;
  if (!(of_x > 0) || !(of_y > 0)) return {};
  return {of_both / of_x, of_both * of_both / (of_x * of_y)};
}

}  // namespace

std::vector<std::string> RangeWarning::observe(int64_t step, const Health& health) {
  for (const numerics::ModuleRanges& module : health.modules) {
    watch_range(step, module.module + ": activations", module.activations);
    if (!scale_is_dynamic_) watch_range(step, module.module + ": gradients", module.gradients);
    watch_underflow(module.module + ": gradients", module.gradients);
  }
  watch_updates(health.parameters);
  return std::exchange(said_, {});
}

// badness: grows by 1 where it becomes twice as bad.
void RangeWarning::say(const std::string& key, double badness, std::string text) {
  const auto [told, is_new] = told_.emplace(key, badness);
  if (!is_new && badness < told->second + 1.0) return;
  told->second = badness;
  said_.push_back(std::move(text));
}

void RangeWarning::watch_range(int64_t step, const std::string& what,
                               const numerics::Range& range) {
  if (!(range.magnitudes.largest > 0)) return;
  const FloatFormat& format = float_format(range.dtype);
  if (range.headroom_bits < kNearBits) {
    say(what + " near", -range.headroom_bits,
        fmt::format("{} reach {:.3g} in {}, whose largest number is {:.5g}", what,
                    range.magnitudes.largest, format.name, format.max));
  }
  History& history = histories_[what];
  history.push_back({step, std::log2(range.magnitudes.largest)});
  if (history.size() > kWindow) history.pop_front();
  watch_pace(what, range, history);

  const double bits = history.back().bits;
  const auto [lowest, is_new] = lowest_.emplace(what, bits);
  lowest->second = std::min(lowest->second, bits);
  if (bits - lowest->second >= kExplosionBits) {
    say(what + " growth", bits - lowest->second,
        fmt::format("{} have grown {:.0f}-fold, to {:.3g}", what, std::exp2(bits - lowest->second),
                    range.magnitudes.largest));
  }
}

// Told of while there is time: at that pace the end comes within ten times as many steps as the
// pace was measured over.
void RangeWarning::watch_pace(const std::string& what, const numerics::Range& range,
                              const History& history) {
  if (history.size() < kFewest || range.headroom_bits > kPaceBits || range.headroom_bits <= 0)
    return;
  const Line line = line_through(history);
  const double rise = history.back().bits - history.front().bits;
  const auto over = static_cast<double>(history.back().step - history.front().step);
  const double left = range.headroom_bits / line.slope;
  if (!(line.slope > 0) || line.fit < 0.8 || rise < 1.0 || left > 10 * over) return;
  const FloatFormat& format = float_format(range.dtype);
  say(what + " pace", 0.0,
      fmt::format("{} double every {:.0f} steps: {:.3g} now, and at that pace beyond {}'s largest "
                  "number, {:.5g}, near step {:.0f}",
                  what, 1 / line.slope, range.magnitudes.largest, format.name, format.max,
                  static_cast<double>(history.back().step) + left));
}

void RangeWarning::watch_underflow(const std::string& what, const numerics::Range& range) {
  const numerics::Magnitudes& m = range.magnitudes;
  if (range.dtype != at::kHalf || m.values == 0) return;
  const int64_t nonzero = m.values - m.zeros - m.nonfinite;
  const int64_t subnormal = m.below(float_format(range.dtype).smallest_normal) - m.zeros;
  const double zeros = static_cast<double>(m.zeros) / static_cast<double>(m.values);
  if (zeros < kLostShare / 2 || nonzero == 0 || 2 * subnormal < nonzero) return;
  say(what + " underflow", std::log2(zeros),
      fmt::format("{} vanish in fp16: {:.0f} % are zero, and {:.0f} % of the others subnormal. "
                  "Hint: a higher loss scale, or bf16",
                  what, 100 * zeros,
                  100.0 * static_cast<double>(subnormal) / static_cast<double>(nonzero)));
}

void RangeWarning::watch_updates(const std::vector<ParameterHealth>& parameters) {
  const ParameterHealth* worst = nullptr;
  int64_t count = 0;
  for (const ParameterHealth& parameter : parameters) {
    if (parameter.lost_update.value_or(0.0) < kLostShare) continue;
    ++count;
    if (worst == nullptr || *parameter.lost_update > *worst->lost_update) worst = &parameter;
  }
  if (worst == nullptr) return;
  say("updates", std::log2(static_cast<double>(count)),
      fmt::format("rounding undoes {:.0f} % of the updates of {}, and more than half of {} of {} "
                  "parameters: {} is too coarse for them. Hint: a mode with fp32 masters, amp-bf16 "
                  "or lean",
                  100 * *worst->lost_update, worst->name, count, parameters.size(),
                  float_format(worst->weights.dtype).name));
}

}  // namespace mezzo::train
