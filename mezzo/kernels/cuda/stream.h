#pragma once

#include <functional>
#include <memory>

#include <c10/core/Device.h>

namespace mezzo::kernels::cuda {

/// A stream of its own on a GPU, and what of it the host can wait for.
class Stream {
 public:
  explicit Stream(c10::Device device);
  ~Stream();
  Stream(Stream&&) noexcept;

  /// Runs f with this as the current stream.
  void run(const std::function<void()>& f);
  /// All that was launched on the current stream comes first; and the other way round.
  void wait_for_current();
  void let_current_wait();

 private:
  struct Own;
  std::unique_ptr<Own> own_;
};

/// A place in what was launched on the current stream.
class Event {
 public:
  Event();
  ~Event();
  Event(Event&&) noexcept;
  void record();
  /// The host waits until everything up to the place is done; at once where nothing was recorded.
  void wait() const;

 private:
  struct Own;
  std::unique_ptr<Own> own_;
};

}  // namespace mezzo::kernels::cuda
