#include "mezzo/numerics/parts.h"

#include <algorithm>
#include <set>

namespace mezzo::numerics {
namespace {

/// A PartMagnitudes that is being gathered, with the sample that its quantiles come from.
struct Gathered {
  PartMagnitudes part;
  std::vector<float> sample;
};

bool is_same_stretch(const PartMagnitudes& part, const OpRecord& record) {
  const bool is_same_place =
      part.module == record.module && (!part.module.empty() || part.parameter == record.parameter);
  return is_same_place && part.direction == record.direction &&
         part.is_recomputed == record.is_recomputed && part.micro_batch == record.micro_batch;
}

Gathered begin(const OpRecord& record, at::ScalarType dtype, int64_t stretch) {
  Gathered gathered;
  gathered.part.stretch = stretch;
  gathered.part.module = record.module;
  gathered.part.parameter = record.module.empty() ? record.parameter : "";
  gathered.part.direction = record.direction;
  gathered.part.is_recomputed = record.is_recomputed;
  gathered.part.micro_batch = record.micro_batch;
  gathered.part.dtype = dtype;
  return gathered;
}

// The entries of the last stretch are at the end of `all`.
Gathered& entry_for(std::vector<Gathered>& all, const OpRecord& record, at::ScalarType dtype) {
  const bool goes_on = !all.empty() && is_same_stretch(all.back().part, record);
  const int64_t last = all.empty() ? -1 : all.back().part.stretch;
  for (size_t i = all.size(); goes_on && i-- > 0 && all[i].part.stretch == last;) {
    if (all[i].part.dtype == dtype) return all[i];
  }
  return all.emplace_back(begin(record, dtype, goes_on ? last : last + 1));
}

void add(PartMagnitudes& part, const TensorFacts& facts, const std::string& op) {
  ++part.results;
  part.values += facts.stats.numel;
  part.zeros += facts.stats.zeros;
  part.subnormals += facts.stats.subnormals;
  part.nonfinite += facts.stats.non_finite();
  if (facts.stats.largest < part.largest) return;
  part.largest = facts.stats.largest;
  part.largest_op = op;
}

double quantile(std::vector<float>& sample, double share) {
  if (sample.empty()) return 0.0;
  const auto place = static_cast<std::ptrdiff_t>(share * static_cast<double>(sample.size() - 1));
  std::nth_element(sample.begin(), sample.begin() + place, sample.end());
  return sample[static_cast<size_t>(place)];
}

}  // namespace

std::vector<PartMagnitudes> parts_of(const Trace& trace, const MagnitudeLog& log) {
  std::vector<Gathered> all;
  for (const OpRecord& record : trace.records) {
    // What at::empty leaves is no number of the step's.
    if (record.op == nullptr || record.parent >= 0 || record.op->leaves_garbage) continue;
    std::set<at::ScalarType> sampled;
    for (const TensorFacts& output : record.outputs) {
      if (output.stats.numel == 0) continue;
      Gathered& entry = entry_for(all, record, output.dtype);
      add(entry.part, output, record.op->name);
      if (!sampled.insert(output.dtype).second) continue;
      const std::vector<float>& sample = log.of(record.key, output.dtype);
      entry.sample.insert(entry.sample.end(), sample.begin(), sample.end());
    }
  }
  std::vector<PartMagnitudes> parts;
  for (Gathered& gathered : all) {
    gathered.part.median = quantile(gathered.sample, 0.5);
    gathered.part.low = quantile(gathered.sample, 0.01);
    parts.push_back(std::move(gathered.part));
  }
  return parts;
}

}  // namespace mezzo::numerics
