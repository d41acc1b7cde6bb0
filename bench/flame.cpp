// Where the time of a training step goes: folded stacks, phase by phase and op by op, for any flame
// graph viewer (speedscope, flamegraph.pl), and the widest of them as text. See bench/README.md.
//
//   flame_bench [MODEL] [PRECISION] [FILE]
//
// An op is what libtorch's dispatcher calls; Mezzo's kernels inside it count as its own time. What
// a phase spends outside any op is its own: the fused optimizer, for one.

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <regex>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <ATen/Parallel.h>
#include <ATen/record_function.h>

#include "mezzo/base/cpu_allocator.h"
#include "mezzo/base/scope.h"
#include "mezzo/kernels/cpu_kernels.h"
#include "mezzo/train/bench_step.h"

namespace {

using Clock = std::chrono::steady_clock;

constexpr int kWarmUp = 3, kSteps = 5;
constexpr size_t kPrinted = 24;

double milliseconds(Clock::duration time) {
  return std::chrono::duration<double, std::milli>(time).count();
}

/// All stacks that were seen, with the time that was spent in each and in none above it.
class Stacks {
 public:
  void push(const std::string& frame) {
    settle();
    stack_.push_back(frame);
  }
  void pop() {
    settle();
    stack_.pop_back();
  }
  void forget() {
    self_ms_.clear();
    since_ = Clock::now();
  }
  size_t depth() const { return stack_.size(); }
  const std::map<std::string, double>& self_ms() const { return self_ms_; }

 private:
  void settle() {
    const auto now = Clock::now();
    std::string path;
    for (const std::string& frame : stack_) path += (path.empty() ? "" : ";") + frame;
    if (!path.empty()) self_ms_[path] += milliseconds(now - since_);
    since_ = now;
  }

  std::vector<std::string> stack_;
  Clock::time_point since_ = Clock::now();
  std::map<std::string, double> self_ms_;
};

Stacks stacks;  // a callback has no other way to reach it; a CPU's step runs on one thread

/// "h.3.mlp" is "h.*.mlp": the layers as one.
std::string without_numbers(const std::string& path) {
  static const std::regex number(R"(\b\d+\b)");
  return std::regex_replace(path, number, "*");
}

void erase_all(std::string& text, const std::string& part) {
  for (size_t i = text.find(part); i != text.npos; i = text.find(part)) text.erase(i, part.size());
}

/// An op, and the part of the model that called it where no other op did; a node of autograd.
std::string frame_of(const at::RecordFunction& function) {
  std::string name = function.name();
  for (const char* part :
       {"torch::autograd::CppNode", "mezzo::kernels::", "(anonymous namespace)::"})
    erase_all(name, part);
  const std::string& path = mezzo::Scope::path();
  return stacks.depth() > 1 || path.empty() ? name : without_numbers(path) + ";" + name;
}

struct Pushed : at::ObserverContext {};

std::unique_ptr<at::ObserverContext> on_start(const at::RecordFunction& function) {
  if (std::string_view(function.name()).starts_with("autograd::engine")) return nullptr;
  stacks.push(frame_of(function));
  return std::make_unique<Pushed>();
}

void on_end(const at::RecordFunction&, at::ObserverContext* context) {
  if (context != nullptr) stacks.pop();
}

class Phases : public mezzo::train::StepWatch {
 public:
  void before_forward() override { enter("forward"); }
  void after_forward() override { enter("backward"); }
  void on_gradient(size_t, const at::Tensor&) override {
    if (phase_ == "backward") enter("norm and optimizer");
  }
  void after_step() override { enter(""); }

 private:
  void enter(const std::string& phase) {
    if (!phase_.empty()) stacks.pop();
    phase_ = phase;
    if (!phase_.empty()) stacks.push(phase_);
  }
  std::string phase_;
};

void print_widest(double step_ms) {
  std::vector<std::pair<double, std::string>> rows;
  double seen = 0;
  for (const auto& [stack, ms] : stacks.self_ms()) {
    rows.emplace_back(ms / kSteps, stack);
    seen += ms / kSteps;
  }
  std::sort(rows.rbegin(), rows.rend());
  std::printf("%.1f ms a step, %.1f of them in stacks\n\n   ms    %%  stack\n", step_ms, seen);
  for (size_t i = 0; i < std::min(rows.size(), kPrinted); ++i)
    std::printf("%6.1f %4.1f  %s\n", rows[i].first, 100 * rows[i].first / step_ms,
                rows[i].second.c_str());
}

void write_folded(const char* path) {
  std::FILE* file = std::fopen(path, "w");
  if (file == nullptr) {
    std::perror(path);
    std::exit(1);
  }
  for (const auto& [stack, ms] : stacks.self_ms())
    std::fprintf(file, "%s %.0f\n", stack.c_str(), 1e3 * ms / kSteps);  // microseconds
  std::fclose(file);
}

}  // namespace

int main(int argc, char** argv) {
  const mezzo::CpuAllocator allocator;
  const mezzo::kernels::CpuKernels cpu_kernels;
  mezzo::train::StepBenchOptions options;
  if (argc > 1) options.model = argv[1];
  if (argc > 2) options.precision = argv[2];
  Phases phases;
  mezzo::train::BenchStep step(options, &phases);
  for (int i = 0; i < kWarmUp; ++i) step.run();
  const auto handle = at::addGlobalCallback(
      at::RecordFunctionCallback(&on_start, &on_end)
          .scopes({at::RecordScope::FUNCTION, at::RecordScope::BACKWARD_FUNCTION}));
  stacks.forget();
  const auto begin = Clock::now();
  for (int i = 0; i < kSteps; ++i) step.run();
  const double step_ms = milliseconds(Clock::now() - begin) / kSteps;
  at::removeCallback(handle);
  std::printf("%s, %s, %d threads: ", options.model.c_str(), options.precision.c_str(),
              at::get_num_threads());
  print_widest(step_ms);
  if (argc > 3) write_folded(argv[3]);
}
