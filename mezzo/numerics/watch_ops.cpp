// The ops that Python programs reach the Watch by: torch.ops.load_library("libmezzo_watch.so").

#include <cstdio>
#include <memory>
#include <mutex>

#include <torch/library.h>

#include "mezzo/base/check.h"
#include "mezzo/numerics/watch.h"

namespace mezzo::numerics {
namespace {

std::mutex mutex;

/// The process' one. What it has found and nobody has asked for is told at the end.
struct Holder {
  std::unique_ptr<Watch> watch;
  ~Holder() {
    if (watch == nullptr) return;
    try {
      const Diagnosis diagnosis = watch->report();
      if (!diagnosis.findings.empty()) std::fputs(to_text(diagnosis).c_str(), stderr);
    } catch (const std::exception& error) {
      std::fprintf(stderr, "%s\n", error.what());
    }
  }
};

Holder& holder() {
  static Holder instance;
  return instance;
}

void start() {
  const std::scoped_lock lock(mutex);
  MEZZO_CHECK(holder().watch == nullptr, "watch_start",
              "a watch is on. Hint: watch_report() or watch_stop() ends it");
  holder().watch = std::make_unique<Watch>();
}

void stop() {
  const std::scoped_lock lock(mutex);
  holder().watch.reset();
}

std::string report() {
  const std::scoped_lock lock(mutex);
  MEZZO_CHECK(holder().watch != nullptr, "watch_report",
              "no watch is on. Hint: torch.ops.mezzo.watch_start() before the program's steps");
  const std::unique_ptr<Watch> watch = std::move(holder().watch);
  return to_text(watch->report());
}

void name(const std::string& name, const at::Tensor& tensor) {
  const std::scoped_lock lock(mutex);
  MEZZO_CHECK(holder().watch != nullptr, "watch_name",
              "no watch is on to call a tensor {}. Hint: torch.ops.mezzo.watch_start() comes first",
              name);
  holder().watch->name(name, tensor);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(mezzo, library) {
  library.def("watch_start() -> ()", &start);
  library.def("watch_stop() -> ()", &stop);
  library.def("watch_report() -> str", &report);
  library.def("watch_name(str name, Tensor tensor) -> ()", &name);
}

}  // namespace mezzo::numerics
