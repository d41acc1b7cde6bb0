#include "mezzo/numerics/recorder.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <memory>
#include <mutex>
#include <optional>

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/engine.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/accumulate_grad.h>

#include "mezzo/base/check.h"
#include "mezzo/base/scope.h"
#include "mezzo/numerics/birth.h"
#include "mezzo/numerics/ends.h"
#include "mezzo/numerics/quiet.h"
#include "mezzo/numerics/scalars.h"

namespace mezzo::numerics {

/// A call that has begun.
struct Recorder::Frame : at::ObserverContext {
  explicit Frame(const OpFacts& facts) : op(facts) {}
  ~Frame() override;

  const OpFacts& op;
  int64_t index = -1;
  uint64_t stretch = 0;
  int exceptions = std::uncaught_exceptions();
  bool has_infinite_scalar = false;
  int64_t garbage_maker = -1;          // of an input that nobody has written to
  std::vector<c10::IValue> arguments;  // in-place ones as copies
  std::vector<at::Tensor> written;     // the originals of those
};

namespace {

std::atomic<Recorder*> active{nullptr};

// A signalling NaN, which arithmetic never gives: what was computed, and is NaN all over, is told
// from what nobody has written.
void poison(const at::Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case at::kBFloat16:
      tensor.view(at::kShort).fill_(0x7fa5);
      return;
    case at::kHalf:
      tensor.view(at::kShort).fill_(0x7da5);
      return;
    case at::kFloat:
      tensor.view(at::kInt).fill_(0x7fa5a5a5);
      return;
    case at::kDouble:
      tensor.view(at::kLong).fill_(0x7ff5a5a5a5a5a5a5);
      return;
    default:  // libtorch's own fill
      return;
  }
}

std::mutex mutex;
uint64_t last_stretch = 0;

constexpr size_t kMostRecords = size_t{1} << 16;
constexpr size_t kNodesKept = 32;  // a gradient is read soon after it is made

struct OpenFrame {
  uint64_t stretch;
  int64_t index;
  uint64_t key;
};
thread_local std::vector<OpenFrame> open_frames;

bool is_looked_at(const at::Tensor& numbers) {
  return numbers.defined() && (numbers.is_floating_point() || numbers.is_complex());
}

// Norms update their running statistics although no schema says so.
bool may_change(const OpFacts& op, size_t argument) {
  return op.writes[argument] ||
         op.handle.schema().arguments()[argument].name().starts_with("running_");
}

bool reads_non_finite(const OpRecord& record) {
  for (const TensorFacts& input : record.inputs) {
    if ((input.kinds & ~input.intended) != 0) return true;
  }
  return false;
}

// A boxed call shows the whole stack, of which the last ones are its own.
c10::ArrayRef<c10::IValue> own(c10::ArrayRef<c10::IValue> stack, size_t count) {
  return stack.slice(stack.size() - std::min(count, stack.size()));
}

bool is_number(const at::Tensor& tensor) {
  return tensor.dim() == 0 && tensor.unsafeGetTensorImpl()->is_wrapped_number();
}

bool is_copy(const OpFacts& op) {
  const std::string base = base_name(op.name);
  return base == "_to_copy" || base == "copy" || base == "clone";
}

// Of each element, where the input is broadcast.
int64_t uses_of(const TensorFacts& input, const OpRecord& record) {
  if (record.outputs.empty() || input.stats.numel == 0) return 1;
  return std::max<int64_t>(1, record.outputs.front().stats.numel / input.stats.numel);
}

bool flips_signs(const std::string& name) {
  const std::string base = base_name(name);
  return base == "neg" || base == "mul" || base == "sub" || base == "rsub" || base == "div" ||
         base == "abs";
}

uint64_t hash_of(const OpRecord& record, const std::vector<at::Tensor>& results) {
  uint64_t hash = 0;
  for (size_t i = 0; i < results.size(); ++i) {
    if (record.outputs[i].kinds != 0) return 0;
    hash = hash * 31 + kernels::content_hash(results[i]);
  }
  return hash;
}

c10::IValue copy_of(const c10::IValue& value) {
  if (value.isTensor() && value.toTensor().defined()) return value.toTensor().clone();
  if (value.isTensorList()) {
    c10::List<at::Tensor> copies;
    for (const at::Tensor& tensor : value.toTensorVector()) copies.push_back(tensor.clone());
    return copies;
  }
  return value;
}

}  // namespace

Recorder::Frame::~Frame() {
  // An op that throws ends without an end callback's results, but not without its frame's end.
  if (!open_frames.empty() && open_frames.back().stretch == stretch &&
      open_frames.back().index == index)
    open_frames.pop_back();
}

// ---- switching

Recorder::Recorder(const RecorderOptions& options) : options_(options) {
  const auto callback = [] {
    return at::RecordFunctionCallback(&Recorder::on_start, &Recorder::on_end)
        .needsInputs(true)
        .needsOutputs(true)
        .scopes({at::RecordScope::FUNCTION});
  };
  static const at::CallbackHandle for_all = at::addGlobalCallback(callback());
  Recorder* none = nullptr;
  MEZZO_CHECK(active.compare_exchange_strong(none, this), "numerics",
              "a step is already being recorded. Hint: one Recorder, diagnosis or Watch at a time");
  const std::scoped_lock lock(mutex);
  stretch_ = ++last_stretch;
  open_frames.clear();
  handle_ = options.follows_this_thread ? at::addThreadLocalCallback(callback()) : for_all;
  if (!options.follows_this_thread) at::reenableCallback(handle_);
}

Recorder::~Recorder() { stop(); }

void Recorder::stop() {
  const std::scoped_lock lock(mutex);
  if (active.load() != this) return;
  options_.follows_this_thread ? at::removeCallback(handle_) : at::disableCallback(handle_);
  active = nullptr;
}

void Recorder::finish() {
  stop();
  recent_nodes_.clear();
  settle_directions();
  if (!failure_.empty())
    mezzo::detail::fail<Error>("numerics", "looking at a step's tensors failed: {}", failure_);
}

uint64_t Recorder::current_key() { return open_frames.empty() ? 0 : open_frames.back().key; }

// ---- the callbacks

std::unique_ptr<at::ObserverContext> Recorder::on_start(const at::RecordFunction& function) {
  const OpFacts* op = OpFacts::of(function);
  if (op == nullptr || op->name.starts_with("mezzo::watch_")) return nullptr;  // Python's way here
  if (at::in_parallel_region()) return nullptr;  // what a kernel's threads call is its own affair
  const std::scoped_lock lock(mutex);
  Recorder* recorder = active.load();
  if (recorder == nullptr) return nullptr;
  try {
    if (recorder->is_at_a_new_step()) recorder->end_step();
    if (recorder->has_enough_) return nullptr;
    return recorder->start(function, *op);
  } catch (const std::exception& error) {
    recorder->failure_ = fmt::format("before {}: {}", op->name, error.what());
    return nullptr;
  }
}

void Recorder::on_end(const at::RecordFunction& function, at::ObserverContext* context) {
  auto* frame = static_cast<Frame*>(context);
  if (frame == nullptr) return;
  if (std::uncaught_exceptions() > frame->exceptions) return;  // the op threw
  const auto with_recorder = [frame](const auto& act) {
    const std::scoped_lock lock(mutex);
    Recorder* recorder = active.load();
    if (recorder != nullptr && recorder->stretch_ == frame->stretch) act(*recorder);
  };
  try {
    const Quiet quiet;
    Call call{frame->op, std::move(frame->arguments), {}};
    std::optional<OpRecord> suspect;
    with_recorder(
        [&](Recorder& recorder) { suspect = recorder.end(*frame, call, function.outputs()); });
    // Without the lock: an op that is run again may wait for other threads, and these for it.
    const std::optional<Birth> birth = suspect ? examine(call, *suspect) : std::nullopt;
    if (!birth.has_value()) return;
    with_recorder([&](Recorder& recorder) {
      recorder.trace_.records[static_cast<size_t>(frame->index)].birth = birth;
    });
  } catch (const std::exception& error) {
    with_recorder([&](Recorder& recorder) {
      recorder.failure_ = fmt::format("after {}: {}", frame->op.name, error.what());
    });
  }
}

bool Recorder::is_at_a_new_step() const {
  if (!options_.forgets_good_steps || has_enough_ || !open_frames.empty() ||
      !running_passes_.expired())
    return false;
  const bool has_maker = at::RecordFunction::currentThreadId() == maker_of_graph_;
  return trace_.records.size() > kMostRecords ||
         (has_news_ && has_maker && at::GradMode::is_enabled());
}

// Names stay; what else is known of memory goes, and with it no bad number.
void Recorder::end_step() {
  has_news_ = false;
  const std::vector<int64_t> ends = bad_ends(trace_);
  if (!ends.empty()) {
    has_enough_ = trace_.records.size() > kMostRecords || !may_be_search_for_scale(trace_, ends);
    return;
  }
  stretch_ = ++last_stretch;
  trace_ = {};
  ledger_.forget_writes();
  record_of_node_.clear();
  external_of_.clear();
  calls_.clear();
  recent_nodes_.clear();
  last_bad_ = -1;
  backwards_ = 0;
  passes_.clear();
  last_backward_begin_ = -1;
}

std::unique_ptr<Recorder::Frame> Recorder::start(const at::RecordFunction& function,
                                                 const OpFacts& op) {
  const auto arguments = own(function.inputs(), op.reads.size());
  auto frame = std::make_unique<Frame>(op);
  frame->index = static_cast<int64_t>(trace_.records.size());
  frame->stretch = stretch_;
  OpRecord& record = trace_.records.emplace_back();
  record.op = &op;
  const bool is_inner = !open_frames.empty() && open_frames.back().stretch == stretch_;
  record.parent = is_inner ? open_frames.back().index : -1;
  place(record, function);
  record.key = key_of(record);
  const ScalarFacts scalars = scalar_facts(op, arguments);
  record.note = scalars.note;
  record.rounded_argument = scalars.rounded_argument;
  frame->has_infinite_scalar = scalars.has_infinity;
  open_frames.push_back({stretch_, frame->index, record.key});

  const Quiet quiet;
  record.is_update = is_update(record, arguments);
  has_news_ |= record.is_update;
  for_each_tensor(arguments, [&](size_t argument, const at::Tensor& tensor) {
    read(*frame, argument, tensor);
  });
  if (record.direction == Direction::kForward && !record.parameter.empty())
    last_parameter_ = record.parameter;
  record.reads_bad = reads_non_finite(record);
  frame->arguments.assign(arguments.begin(), arguments.end());
  for (size_t i = 0; i < frame->arguments.size(); ++i) {
    if (op.writes[i] && op.reads[i]) frame->arguments[i] = copy_of(frame->arguments[i]);
  }
  return frame;
}

// ---- where an op is

void Recorder::place(OpRecord& record, const at::RecordFunction& function) {
  const auto node = torch::autograd::get_current_node();
  record.module = Scope::path();
  record.parameter = last_parameter_;
  if (node != nullptr) {
    enter_pass(*node);
    place_in_backward(record);
  } else {
    const bool may_be_optimizer = backwards_ > 0 && !at::GradMode::is_enabled();
    record.direction = may_be_optimizer ? Direction::kOptimizer : Direction::kForward;
    record.micro_batch = backwards_ + 1;
  }
  if (record.direction == Direction::kForward && function.seqNr() >= 0 &&
      at::GradMode::is_enabled()) {
    record_of_node_[{at::RecordFunction::currentThreadId(),
                     static_cast<uint64_t>(function.seqNr())}] =
        static_cast<int64_t>(trace_.records.size()) - 1;
  }
}

// One that begins while another runs is within that one, or another thread's. The engine says when
// a pass is over, on whatever threads it ran: it lets go of what it was to call then.
void Recorder::enter_pass(const torch::autograd::Node& node) {
  const int pass = torch::autograd::get_current_graph_task_id();
  if (pass < 0 || !passes_.insert(pass).second) return;
  std::shared_ptr<const bool> running = running_passes_.lock();
  if (running == nullptr) {
    running_passes_ = running = std::make_shared<const bool>();
    ++backwards_;
    has_news_ = true;
    last_backward_begin_ = static_cast<int64_t>(trace_.records.size()) - 1;
    maker_of_graph_ = node.thread_id();
  }
  torch::autograd::Engine::get_default_engine().queue_callback(
      [running]() mutable { running.reset(); });
}

uint64_t Recorder::key_of(const OpRecord& record) {
  // Splitmix64 (Vigna, public domain): small numbers beside each other must not meet.
  const auto mixed = [](uint64_t a, uint64_t b) {
    uint64_t key = a * 0xbf58476d1ce4e5b9u + (b + 1) * 0x9e3779b97f4a7c15u;
    key = (key ^ (key >> 30)) * 0xbf58476d1ce4e5b9u;
    key = (key ^ (key >> 27)) * 0x94d049bb133111ebu;
    return key ^ (key >> 31);
  };
  if (record.parent >= 0) {
    OpRecord& parent = trace_.records[static_cast<size_t>(record.parent)];
    return mixed(parent.key, parent.children++);
  }
  const int sort = record.is_recomputed ? 2 : record.node.empty() ? 0 : 1;
  return mixed(static_cast<uint64_t>(record.micro_batch * 3 + sort),
               calls_[{sort, record.micro_batch}]++);
}

// A forward pass within the backward one is a checkpoint's: its ops record gradients, as do those
// of a backward pass that is to be differentiated once more.
void Recorder::place_in_backward(OpRecord& record) {
  const auto node = torch::autograd::get_current_node();
  if (recent_nodes_.empty() || recent_nodes_.back() != node) recent_nodes_.push_back(node);
  if (recent_nodes_.size() > kNodesKept) recent_nodes_.pop_front();
  record.micro_batch = backwards_;
  record.node = node->name();
  if (at::GradMode::is_enabled() && record.node.find("heckpoint") != std::string::npos) {
    record.is_recomputed = true;
    return;
  }
  record.direction = Direction::kBackward;
  if (const auto* accumulate = dynamic_cast<torch::autograd::AccumulateGrad*>(node.get())) {
    record.parameter = ledger_.name_of(accumulate->variable);
    return;
  }
  place_at_node(record, *node);
}

void Recorder::place_at_node(OpRecord& record, const torch::autograd::Node& node) const {
  record.node = node.name();
  record.module = scopes_.path_at(node.thread_id(), node.sequence_nr());
  const auto made = record_of_node_.find({node.thread_id(), node.sequence_nr()});
  if (made == record_of_node_.end()) return;
  record.forward = made->second;
  record.parameter = trace_.records[static_cast<size_t>(made->second)].parameter;
}

// Of an optimizer, which may do more than that between two such ops.
bool Recorder::is_update(const OpRecord& record, c10::ArrayRef<c10::IValue> arguments) const {
  if (record.direction != Direction::kOptimizer) return false;
  if (record.parent >= 0) return trace_.records[static_cast<size_t>(record.parent)].is_update;
  bool reads_gradient = false, writes = false, has_parameter = false;
  for_each_tensor(arguments, [&](size_t argument, const at::Tensor& tensor) {
    const at::Tensor numbers = numbers_of(tensor);
    if (!numbers.defined()) return;
    const int64_t writer = ledger_.last_writer(numbers);
    reads_gradient |= writer >= 0 &&
                      trace_.records[static_cast<size_t>(writer)].direction == Direction::kBackward;
    writes |= record.op->writes[argument];
    has_parameter |= ledger_.is_parameter(numbers) || (tensor.is_leaf() && tensor.requires_grad());
  });
  return reads_gradient || (writes && has_parameter);
}

// An op without gradients after a backward pass is the optimizer's, unless another forward pass
// was still to come or all updates were done: then it is within that one, or a validation.
void Recorder::settle_directions() {
  const auto N = static_cast<int64_t>(trace_.records.size());
  const auto updated = std::find_if(trace_.records.rbegin(), trace_.records.rend(),
                                    [](const OpRecord& record) { return record.is_update; });
  const int64_t end_of_updates = N - (updated - trace_.records.rbegin());
  for (int64_t i = 0; i < N; ++i) {
    OpRecord& record = trace_.records[static_cast<size_t>(i)];
    if (record.direction != Direction::kOptimizer) continue;
    const bool is_forward = i < last_backward_begin_ || i >= end_of_updates;
    if (is_forward) record.direction = Direction::kForward;
    if (i >= last_backward_begin_) record.micro_batch = 1;  // it is of no one
  }
}

// ---- what an op reads

TensorFacts Recorder::facts_of(const at::Tensor& numbers) const {
  TensorFacts facts;
  facts.memory = numbers.storage().unsafeGetStorageImpl();
  facts.dtype = numbers.scalar_type();
  facts.sizes = numbers.sizes().vec();
  facts.stats = kernels::tensor_stats(numbers);
  facts.kinds = kinds_of(facts.stats);
  return facts;
}

void Recorder::read(Frame& frame, size_t argument, const at::Tensor& tensor) {
  const at::Tensor numbers = numbers_of(tensor);
  if (may_change(frame.op, argument) && numbers.defined() && options_.saves_overwritten &&
      !frame.op.is_view)
    keep_overwritten(frame, argument, numbers);
  if (!is_looked_at(numbers)) return;
  OpRecord& record = trace_.records[static_cast<size_t>(frame.index)];
  const std::string name = ledger_.name_of(numbers);
  if (frame.op.writes[argument]) frame.written.push_back(numbers);
  if (!frame.op.reads[argument]) return;
  if (ledger_.is_parameter(numbers)) record.parameter = name;
  if (frame.op.is_view) {
    // Composites that may copy (to, reshape) have views' schemas: what they are given is older than
    // the op within that copies it. In a backward pass it may be a kernel's.
    if (record.parent < 0 && record.direction != Direction::kBackward) ledger_.origin(numbers, 0);
    return;
  }
  TensorFacts facts = facts_of(numbers);
  if (is_number(numbers) && !ledger_.knows(numbers)) {  // a scalar argument, by way of a tensor
    frame.has_infinite_scalar |= facts.kinds != 0;
    return;
  }
  // First seen within an op: the result that the op is about to write, not made by any op we see.
  // NaN first seen in a backward pass is not older than the step, which would have read it before:
  // a kernel of the forward pass left it there.
  const bool is_backward_of_nan =
      record.direction == Direction::kBackward && (facts.kinds & kNaN) != 0;
  if (!ledger_.knows(numbers) && (record.parent >= 0 || is_backward_of_nan))
    ledger_.made_garbage(numbers, facts.kinds, record.parent);
  const Ledger::Origin origin = ledger_.origin(numbers, facts.kinds);
  facts.intended = origin.intended;
  record.sources.insert(record.sources.end(), origin.sources.begin(), origin.sources.end());
  if (origin.place == Ledger::Origin::Place::kExternal) add_external(numbers, facts, frame.index);
  if (origin.place == Ledger::Origin::Place::kUnseen)
    record.sources.push_back(add_unseen(record, facts));
  if (origin.place == Ledger::Origin::Place::kGarbage) blame_garbage(origin.sources.front());
  // A copy of garbage is garbage: kernels cast their empty results. Not what is computed of it: a
  // number may be what was there before, and have been written all the same.
  if (is_copy(frame.op) && ledger_.garbage_maker(numbers) >= 0)
    frame.garbage_maker = ledger_.garbage_maker(numbers);
  record.inputs.push_back(std::move(facts));
}

// The node that handed its gradient to the one that runs now; null outside a backward pass.
std::shared_ptr<torch::autograd::Node> Recorder::maker_of_gradient() const {
  const auto reader = torch::autograd::get_current_node();
  for (auto node = recent_nodes_.rbegin(); node != recent_nodes_.rend(); ++node) {
    for (const torch::autograd::Edge& edge : (*node)->next_edges()) {
      if (edge.function == reader) return *node;
    }
  }
  return reader;
}

void Recorder::blame_garbage(int64_t maker) {
  OpRecord& record = trace_.records[static_cast<size_t>(maker)];
  if (!record.op->leaves_garbage) return;
  if (last_bad_ >= 0 && !options_.is_poisoned) {  // code that is no op may have written it
    record.sources = {last_bad_};
    record.reads_bad = true;
  } else if (!record.reads_bad) {
    record.birth.emplace().cause = Cause::kUninitialized;
  }
}

int64_t Recorder::add_unseen(const OpRecord& reader, const TensorFacts& facts) {
  OpRecord unseen;
  unseen.direction = reader.direction;
  unseen.module = reader.module;
  unseen.parameter = reader.parameter;
  if (const auto maker = maker_of_gradient()) place_at_node(unseen, *maker);
  unseen.micro_batch = reader.micro_batch;
  unseen.outputs = {facts};
  unseen.has_thrown = false;
  if (last_bad_ >= 0) {  // it read what was bad already
    unseen.sources = {last_bad_};
    unseen.reads_bad = true;
  } else {
    unseen.birth.emplace().cause = Cause::kUnseenKernel;
    unseen.birth->note = fmt::format("first read by {}", reader.op->name);
  }
  trace_.records.push_back(std::move(unseen));
  return static_cast<int64_t>(trace_.records.size()) - 1;
}

void Recorder::add_external(const at::Tensor& numbers, const TensorFacts& facts, int64_t reader) {
  const auto [at, is_new] = external_of_.emplace(facts.memory, trace_.externals.size());
  if (reader >= 0) trace_.records[static_cast<size_t>(reader)].externals.push_back(at->second);
  if (!is_new) return;
  ExternalRecord external;
  external.name = ledger_.name_of(numbers);
  external.kinds = facts.kinds;
  external.is_parameter = ledger_.is_parameter(numbers);
  external.first_reader = reader;
  external.facts = facts;
  external.element = first_non_finite(numbers);
  trace_.externals.push_back(std::move(external));
}

void Recorder::keep_overwritten(const Frame& frame, size_t argument, const at::Tensor& numbers) {
  const bool is_read = frame.op.reads[argument];
  const bool is_inner = trace_.records[static_cast<size_t>(frame.index)].parent >= 0;
  // What an op within another one only writes, and nobody knows, is the outer one's new result.
  if (!ledger_.is_external(numbers) || (is_inner && !is_read && !ledger_.knows(numbers))) return;
  const auto [place, is_first] =
      place_in_overwritten_.emplace(numbers.unsafeGetTensorImpl(), overwritten_.size());
  if (is_first) overwritten_.push_back({numbers, numbers.clone()});
  overwritten_[place->second].is_read |= is_read;
}

// ---- what it leaves

// Gives back its record where it is to be examined.
std::optional<OpRecord> Recorder::end(const Frame& frame, Call& call,
                                      const std::vector<c10::IValue>& outputs) {
  OpRecord& record = trace_.records[static_cast<size_t>(frame.index)];
  record.has_thrown = false;
  if (frame.op.is_view) return std::nullopt;
  const auto take = [&](const at::Tensor& tensor) {
    const at::Tensor numbers = numbers_of(tensor);
    trace_.unread += is_looked_at(tensor) && !tensor.is_meta() && !numbers.defined() ? 1 : 0;
    if (!is_looked_at(numbers)) {
      // Known from now on, and not older than the step.
      if (numbers.defined() && options_.saves_overwritten && !ledger_.knows(numbers))
        ledger_.wrote(numbers, 0, 0, frame.index);
      return;
    }
    for (const at::Tensor& other : call.results) {
      if (other.is_same(numbers)) return;
    }
    call.results.push_back(numbers);
    record.outputs.push_back(facts_of(numbers));
  };
  for_each_tensor(own(outputs, frame.op.handle.schema().returns().size()),
                  [&](size_t, const at::Tensor& tensor) { take(tensor); });
  for (const at::Tensor& tensor : frame.written) take(tensor);

  if (frame.op.leaves_garbage && options_.is_poisoned) {
    for (const at::Tensor& result : call.results) poison(result);
  }
  if (frame.op.leaves_garbage || frame.garbage_maker >= 0) {
    const int64_t maker = frame.op.leaves_garbage ? frame.index : frame.garbage_maker;
    for (size_t i = 0; i < call.results.size(); ++i)
      ledger_.made_garbage(call.results[i], record.outputs[i].kinds, maker);
    return std::nullopt;
  }
  // libtorch fills what at::empty makes where algorithms are deterministic.
  if (record.parent >= 0 && is_garbage_made_by(record.parent)) return std::nullopt;
  const bool is_suspect = judge(record, frame.has_infinite_scalar);
  for (const TensorFacts& output : record.outputs) {
    if ((output.kinds & ~output.intended) != 0) last_bad_ = frame.index;
  }
  for (size_t i = 0; i < call.results.size(); ++i) {
    ledger_.wrote(call.results[i], record.outputs[i].kinds, record.outputs[i].intended,
                  frame.index);
  }
  if (options_.hashes) record.hash = hash_of(record, call.results);
  return is_suspect ? std::optional(record) : std::nullopt;
}

bool Recorder::is_garbage_made_by(int64_t i) const {
  const OpFacts* op = trace_.records[static_cast<size_t>(i)].op;
  return op != nullptr && op->leaves_garbage;
}

// Whether something may have been born here: it is neither what it read nor meant so.
bool Recorder::judge(OpRecord& record, bool has_infinite_scalar) {
  Kinds in = 0, out = 0;
  int64_t infinities_in = 0, infinities_out = 0;
  for (const TensorFacts& output : record.outputs) {
    out |= output.kinds;
    infinities_out += output.stats.non_finite();
  }
  const bool is_elementwise = record.op->is_pointwise || is_copy(*record.op);
  for (const TensorFacts& input : record.inputs) {
    in |= input.kinds;
    infinities_in += input.stats.non_finite() * (is_elementwise ? uses_of(input, record) : 1);
  }
  if (out == 0) return !record.reads_bad;
  if (in == 0 && has_infinite_scalar && (out & kNaN) != 0 && last_bad_ >= 0) {
    record.sources = {last_bad_};  // a NaN that was read on the host
    record.reads_bad = true;
  }
  if (record.reads_bad) return false;
  const Kinds fresh = out & static_cast<Kinds>(~in);
  const bool is_meant =
      (fresh & kNaN) == 0 &&
      (has_infinite_scalar ||
       (infinities_out <= infinities_in && (fresh == 0 || flips_signs(record.op->name))) ||
       (fresh == 0 && !is_elementwise && !flips_signs(record.op->name)));
  if (!is_meant) return true;
  for (TensorFacts& output : record.outputs) output.intended = output.kinds;
  return false;
}

std::vector<int64_t> Recorder::sources_of(const at::Tensor& tensor) {
  const Quiet quiet;
  const at::Tensor numbers = numbers_of(tensor);
  if (!is_looked_at(numbers)) return {};
  const TensorFacts facts = facts_of(numbers);
  if (facts.kinds == 0) return {};
  const Ledger::Origin origin = ledger_.origin(numbers, facts.kinds);
  if (origin.place == Ledger::Origin::Place::kExternal && origin.intended == 0)
    add_external(numbers, facts, -1);
  if (origin.place == Ledger::Origin::Place::kGarbage) blame_garbage(origin.sources.front());
  return origin.sources;
}

void Recorder::name(const std::string& name, const at::Tensor& tensor, bool is_parameter) {
  const Quiet quiet;
  const std::scoped_lock lock(mutex);
  ledger_.name(name, tensor, is_parameter);
}

}  // namespace mezzo::numerics
