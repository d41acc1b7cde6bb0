#pragma once

#include <functional>
#include <memory>

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

}  // namespace mezzo::kernels::cuda
