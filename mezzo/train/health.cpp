#include "mezzo/train/health.h"

#include <cmath>

#include "mezzo/base/float_format.h"

namespace mezzo::train {
namespace {

// FP8 tensors are scaled by a power of two, so that the largest number just fits.
double fp8_scale(const numerics::Magnitudes& m, const FloatFormat& format) {
  return m.largest > 0 ? std::exp2(std::floor(std::log2(format.max / m.largest))) : 1.0;
}

// scale: by which the numbers would be multiplied in 16 bits. None where there are no numbers.
void add_row(report::HealthRecord& record, const std::string& where, const std::string& what,
             const numerics::Range& range, double scale) {
  const numerics::Magnitudes& m = range.magnitudes;
  if (m.values == 0) return;
  report::HealthRecord::Row& row = record.rows.emplace_back();
  row.where = where;
  row.what = what;
  row.dtype = float_format(range.dtype).name;
  row.values = m.values;
  row.nonfinite = m.nonfinite;
  row.largest = m.largest;
  row.rms = m.rms();
  row.headroom_bits = range.headroom_bits;
  row.zeros = static_cast<double>(m.zeros) / static_cast<double>(m.values);
  row.underflow = {{"fp16", underflow(m, float_format(at::kHalf), scale)},
                   {"bf16", underflow(m, float_format(at::kBFloat16), scale)},
                   {"fp8_e4m3", underflow(m, kFp8E4M3, fp8_scale(m, kFp8E4M3))},
                   {"fp8_e5m2", underflow(m, kFp8E5M2, fp8_scale(m, kFp8E5M2))}};
}

}  // namespace

double underflow(const numerics::Magnitudes& m, const FloatFormat& format, double scale) {
  const int64_t nonzero = m.values - m.zeros, lost = m.zeros_in(format, scale) - m.zeros;
  return nonzero == 0 ? 0.0 : static_cast<double>(lost) / static_cast<double>(nonzero);
}

report::HealthRecord health_record(int64_t step, const Health& health, double scale,
                                   bool is_skipped) {
  report::HealthRecord record;
  record.step = step;
  record.scale = scale;
  for (const numerics::ModuleRanges& module : health.modules) {
    add_row(record, module.module, "activations", module.activations, 1.0);
    add_row(record, module.module, "gradients", module.gradients, 1.0);
  }
  for (const ParameterHealth& parameter : health.parameters) {
    add_row(record, parameter.name, "weights", parameter.weights, 1.0);
    if (!is_skipped) {
      record.rows.back().update = parameter.update;
      record.rows.back().lost_update = parameter.lost_update;
    }
    add_row(record, parameter.name, "weight gradients", parameter.gradients, scale);
  }
  return record;
}

}  // namespace mezzo::train
