#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include "mezzo/base/bytes_by_kind.h"
#include "mezzo/base/error.h"

namespace mezzo {

/// The most memory this process has had resident at once since it began, in bytes, as the kernel
/// counts it: everything, the program's code and libraries included.
int64_t peak_rss_bytes();

/// Tensors that do not fit into the budget of a TensorMemoryMeter.
class BudgetExceeded : public Error {
 public:
  using Error::Error;
};

/// Exact bytes of tensor storage, live now and at the peak, from the allocator's own reports.
///
/// On a CPU: what this thread allocated while the meter lived (autograd runs a CPU backward on the
/// calling thread, so that is included). Make it before the model: a tensor from before is not
/// counted, not even when freed (c10 then says so on stderr, once a thousand times). Storage that a
/// worker thread allocates inside at::parallel_for is not seen, and storage that another thread
/// frees counts as live until its address is used again. Meters nest: the outer one sees what the
/// inner one sees. Destroy them in reverse order on the thread that made them.
///
/// On another device (CUDA): the caching allocator's count of the bytes given out, by all threads;
/// reset_peak() resets the allocator's own peak, which all meters of that device share.
///
/// Costs a lock and a hash-map entry per allocation on a CPU, nothing on a device.
class TensorMemoryMeter {
 public:
  /// Throws Error if torch's profiler is running on this thread: the two use the same hook; and
  /// libtorch's own error for a device that cannot be used.
  explicit TensorMemoryMeter(c10::Device device = c10::Device(c10::kCPU));
  ~TensorMemoryMeter();
  TensorMemoryMeter(const TensorMemoryMeter&) = delete;
  TensorMemoryMeter& operator=(const TensorMemoryMeter&) = delete;

  /// While it lives, nothing that is allocated becomes the meter's peak.
  class Aside {
   public:
    explicit Aside(TensorMemoryMeter& meter);
    ~Aside();
    Aside(const Aside&) = delete;
    Aside& operator=(const Aside&) = delete;

   private:
    TensorMemoryMeter& meter_;
    int64_t peak_;  // before
  };

  /// Live now.
  int64_t current_bytes() const;
  /// The highest current_bytes() since the meter was made or the peak was reset.
  int64_t peak_bytes() const;
  /// The peak becomes what is live now.
  void reset_peak();

  /// From now on an allocation that brings current_bytes() above `bytes` throws BudgetExceeded, so
  /// that what does not fit is found out without bringing the machine down. CPU only: throws Error
  /// for a meter of another device.
  void set_budget(int64_t bytes);

  /// Say where a forward pass begins and ends: what it allocates and leaves for the backward pass
  /// are activations. Nothing to do on a device other than a CPU.
  void begin_forward();
  void end_forward();

  /// The peak by kind. To be asked while the gradients that were live at the peak still are: at the
  /// end of the step, before they are zeroed. Tensors from before the meter count for nothing. CPU
  /// only: throws Error for a meter of another device.
  BytesByKind peak_by_kind(const std::vector<at::Tensor>& weights,
                           const std::vector<at::Tensor>& gradients,
                           const std::vector<at::Tensor>& optimizer_state) const;

 private:
  class CpuReports;
  struct CpuHook;
  c10::Device device_;
  std::unique_ptr<CpuHook> cpu_;  // null for another device
  int64_t earlier_peak_ = 0;      // on another device: of before the last Aside
};

}  // namespace mezzo
