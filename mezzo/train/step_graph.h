#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

namespace mezzo::train {

/// Work that was recorded, and is launched as a whole.
class Recording {
 public:
  virtual ~Recording() = default;
  virtual void launch() = 0;
};

/// When a step is run op by op, when it is recorded, and when the recording is launched instead.
/// Knows nothing of the device.
///
/// The first kWarmUpSteps steps of a shape run op by op: kernels are chosen, memory is found, the
/// optimizer makes its state. The next one is recorded and launched, as is each one after it, until
/// the shape changes and all begins anew. Where recording fails, steps run op by op from then on,
/// and refusal() says why.
class StepGraph {
 public:
  static constexpr int64_t kWarmUpSteps = 3;
  using Record = std::function<std::unique_ptr<Recording>(const std::function<void()>& work)>;

  /// record: runs `work` so that nothing is computed but all is recorded; throws where it cannot,
  /// and leaves all as it was.
  explicit StepGraph(Record record) : record_(std::move(record)) {}

  /// A step of `work`. shape: equal for steps that one recording serves. Throws what work throws,
  /// when it is run op by op.
  void run(const std::string& shape, const std::function<void()>& work);

  /// Gives the recording's memory back to others. The next step is recorded again.
  void drop() { recording_.reset(); }

  bool is_recorded() const { return recording_ != nullptr; }
  /// Why steps are not recorded; empty where they are or will be.
  const std::string& refusal() const { return refusal_; }

 private:
  Record record_;
  std::string shape_;
  int64_t warm_up_steps_ = 0;
  std::unique_ptr<Recording> recording_;
  std::string refusal_;
};

}  // namespace mezzo::train
