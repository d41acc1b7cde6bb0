#pragma once

#include <functional>
#include <memory>

#include <ATen/core/Tensor.h>

namespace mezzo::kernels::cuda {

/// Work on a GPU that is recorded once and then launched as a whole: a CUDA graph. Addresses are
/// recorded with it: what it reads anew each time is copied into the tensors that it was captured
/// with.
class Graph {
 public:
  Graph();
  ~Graph();

  /// Records what `work` launches on the current stream, which must not be the default one, and
  /// runs nothing. Throws where work does what cannot be recorded: reads a number on the host, say;
  /// the GPU, its allocator and its random numbers can then be used as before.
  void capture(const std::function<void()>& work);
  /// Launches all of it on the current stream.
  void replay();

 private:
  struct Recorded;
  std::unique_ptr<Recorded> recorded_;
};

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

/// A tensor of x's shape and dtype on the host, to which a GPU can copy while the host goes on.
/// From libtorch's store of such memory, in blocks of powers of two: for a moment.
at::Tensor pinned_like(const at::Tensor& x);
/// The same, no larger than it must be and made anew each time, which takes long: to be kept.
/// Throws Error where the system has no more.
at::Tensor pinned_to_keep(const at::Tensor& x);

}  // namespace mezzo::kernels::cuda
