#include "mezzo/numerics/range_probe.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <exception>
#include <mutex>
#include <utility>

#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/function.h>

#include "mezzo/base/check.h"
#include "mezzo/base/float_format.h"
#include "mezzo/base/ivalue_tensors.h"
#include "mezzo/base/scope.h"
#include "mezzo/base/stopwatch.h"
#include "mezzo/numerics/birth.h"
#include "mezzo/numerics/ledger.h"
#include "mezzo/numerics/op_facts.h"
#include "mezzo/numerics/quiet.h"

namespace mezzo::numerics {
namespace {

std::atomic<RangeProbe*> active{nullptr};
// Other threads may be within an op when a probe is gone.
std::recursive_mutex mutex;

// Between a part of the model and an op in the name of a place.
constexpr char kOpMark = '\t';

std::string full_name(const OpFacts& op) {
  const std::string& overload = op.handle.operator_name().overload_name;
  return overload.empty() ? op.name : op.name + "." + overload;
}

bool is_cast(const std::string& op) {
  const std::string base = base_name(op);
  return base == "to" || base == "_to_copy" || base == "copy" || base == "clone" ||
         base == "contiguous";
}

bool is_parameter(const c10::IValue& value) {
  return value.isTensor() && value.toTensor().defined() && value.toTensor().is_leaf() &&
         value.toTensor().requires_grad();
}

// What an op writes that reads none, a constant or a mask, nobody has computed.
bool reads_numbers(const OpFacts& op, c10::ArrayRef<const c10::IValue> arguments) {
  bool reads = false;
  for_each_tensor(arguments, [&](size_t i, const at::Tensor& tensor) {
    reads = reads || (op.reads[i] && tensor.defined() && tensor.is_floating_point());
  });
  return reads;
}

bool is_in_place(const OpFacts& op) {
  return std::find(op.writes.begin(), op.writes.end(), true) != op.writes.end();
}

bool is_measured(const at::Tensor& tensor) {
  return tensor.defined() && tensor.is_floating_point() && tensor.numel() > 0 &&
         tensor.element_size() > 1;
}

}  // namespace

/// A call that has begun.
struct RangeProbe::Frame : at::ObserverContext {
  Frame(const OpFacts& facts, bool leaves_out)
      : op(facts), is_left_out(leaves_out || (top != nullptr && top->is_left_out)), outer(top) {
    top = this;
  }
  ~Frame() override {
    top = outer;
    if (!names_nodes) return;
    const std::scoped_lock lock(mutex);
    RangeProbe* probe = active.load();
    if (probe != nullptr) probe->scopes_.note(Scope::path());
  }

  const OpFacts& op;
  bool is_left_out;
  bool names_nodes = false;  // that are made while it lives
  Frame* outer;
  int exceptions = std::uncaught_exceptions();
  std::vector<const void*> measured;  // memory of results, by the calls within

  static thread_local Frame* top;
};

thread_local RangeProbe::Frame* RangeProbe::Frame::top = nullptr;

void Range::add(const at::Tensor& tensor) {
  if (!tensor.defined()) return;
  const Magnitudes part = magnitudes_of(tensor);
  const FloatFormat& format = float_format(tensor.scalar_type());
  if (part.largest > 0.0) {
    const double bits = std::log2(format.max / part.largest);
    if (magnitudes.largest == 0.0 || bits < headroom_bits) {
      headroom_bits = bits;
      dtype = tensor.scalar_type();
    }
  } else if (magnitudes.values == 0) {
    dtype = tensor.scalar_type();
  }
  magnitudes += part;
}

RangeProbe::RangeProbe(Detail detail) : detail_(detail) {
  static const at::CallbackHandle handle =
      at::addGlobalCallback(at::RecordFunctionCallback(&RangeProbe::on_start, &RangeProbe::on_end)
                                .needsInputs(true)
                                .needsOutputs(true)
                                .scopes({at::RecordScope::FUNCTION}));
  RangeProbe* none = nullptr;
  MEZZO_CHECK(active.compare_exchange_strong(none, this), "numerics",
              "ranges are already being read. Hint: one RangeProbe at a time");
  const std::scoped_lock lock(mutex);
  handle_ = handle;
  at::reenableCallback(handle);
}

RangeProbe::~RangeProbe() {
  const std::scoped_lock lock(mutex);
  at::disableCallback(handle_);
  active = nullptr;
}

std::unique_ptr<at::ObserverContext> RangeProbe::on_start(const at::RecordFunction& function) {
  const OpFacts* op = OpFacts::of(function);
  const std::scoped_lock lock(mutex);
  RangeProbe* probe = active.load();
  if (probe == nullptr || op == nullptr) return nullptr;
  const bool is_recomputed =
      torch::autograd::get_current_node() != nullptr && at::GradMode::is_enabled();
  const bool casts_parameter =
      is_cast(op->name) && !function.inputs().empty() && is_parameter(function.inputs().front());
  auto frame = std::make_unique<Frame>(*op, is_recomputed || casts_parameter || op->is_view ||
                                                op->leaves_garbage ||
                                                !reads_numbers(*op, function.inputs()));
  const bool is_forward = torch::autograd::get_current_node() == nullptr;
  if (probe->detail_ == Detail::kByOp && is_forward && frame->outer == nullptr) {
    frame->names_nodes = true;
    probe->scopes_.note(Scope::path() + kOpMark + full_name(*op));
  }
  return frame;
}

void RangeProbe::on_end(const at::RecordFunction& function, at::ObserverContext* context) {
  auto* frame = static_cast<Frame*>(context);
  if (frame == nullptr) return;
  if (std::uncaught_exceptions() > frame->exceptions) return;  // the op threw
  const Stopwatch spent;
  const std::scoped_lock lock(mutex);
  RangeProbe* probe = active.load();
  if (probe == nullptr) return;
  try {
    probe->end(*frame, function.outputs());
  } catch (const std::exception& error) {
    probe->failure_ = fmt::format("after {}: {}", frame->op.name, error.what());
  }
  probe->spent_ms_ += spent.ms();
}

void RangeProbe::end(Frame& frame, const std::vector<c10::IValue>& results) {
  const auto node = torch::autograd::get_current_node();
  const std::string place =
      node == nullptr ? place_of(frame) : scopes_.path_at(node->thread_id(), node->sequence_nr());
  if (!frame.is_left_out && !place.empty() && place.front() != kOpMark) {
    const Quiet quiet;
    for_each_tensor(results, [&](size_t, const at::Tensor& tensor) {
      if (!is_measured(tensor)) return;
      const void* memory = tensor.const_data_ptr();
      auto& seen = frame.measured;
      if (std::find(seen.begin(), seen.end(), memory) != seen.end()) return;
      seen.push_back(memory);
      ModuleRanges& module = of(place);
      (node == nullptr ? module.activations : module.gradients).add(tensor);
    });
  }
  // What is changed in place may be changed once more, by the op around.
  if (frame.outer == nullptr || is_in_place(frame.op)) return;
  auto& outer = frame.outer->measured;
  outer.insert(outer.end(), frame.measured.begin(), frame.measured.end());
}

std::string RangeProbe::place_of(const Frame& frame) const {
  if (detail_ == Detail::kByModule) return Scope::path();
  const Frame* outermost = &frame;
  while (outermost->outer != nullptr) outermost = outermost->outer;
  return Scope::path() + kOpMark + full_name(outermost->op);
}

ModuleRanges& RangeProbe::of(const std::string& place) {
  const auto [at, is_new] = index_of_.emplace(place, modules_.size());
  if (is_new) {
    const size_t mark = place.find(kOpMark);
    ModuleRanges& module = modules_.emplace_back();
    module.module = place.substr(0, mark);
    if (mark != std::string::npos) module.op = place.substr(mark + 1);
  }
  return modules_[at->second];
}

std::vector<ModuleRanges> RangeProbe::take() {
  const std::scoped_lock lock(mutex);
  if (!failure_.empty())
    mezzo::detail::fail<Error>("numerics", "reading a step's ranges failed: {}", failure_);
  index_of_.clear();
  return std::exchange(modules_, {});
}

}  // namespace mezzo::numerics
