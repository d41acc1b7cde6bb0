#pragma once

#include <cstdint>
#include <map>
#include <utility>
#include <vector>

#include <ATen/record_function.h>

namespace mezzo::numerics {

/// While it lives, samples the magnitudes of what every op leaves that a Recorder follows: for how
/// large most numbers are, where the recorder's statistics know the largest. Costs a thousand
/// elements a result. One at a time.
class MagnitudeLog {
 public:
  MagnitudeLog();
  ~MagnitudeLog();
  MagnitudeLog(const MagnitudeLog&) = delete;
  MagnitudeLog& operator=(const MagnitudeLog&) = delete;

  /// Of the finite numbers but 0 in those results of this dtype of the op with that OpRecord::key.
  const std::vector<float>& of(uint64_t key, at::ScalarType dtype) const;

 private:
  static void on_end(const at::RecordFunction& function, at::ObserverContext* context);
  void sample(const at::Tensor& tensor);

  std::map<std::pair<uint64_t, at::ScalarType>, std::vector<float>> samples_;
};

}  // namespace mezzo::numerics
