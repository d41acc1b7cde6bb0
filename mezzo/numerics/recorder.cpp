#include "mezzo/numerics/recorder.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <memory>
#include <mutex>
#include <optional>

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>

#include "mezzo/base/check.h"
#include "mezzo/base/ivalue_tensors.h"
#include "mezzo/numerics/birth.h"
#include "mezzo/numerics/ends.h"
#include "mezzo/numerics/poison.h"
#include "mezzo/numerics/quiet.h"
#include "mezzo/numerics/scalars.h"
#include "mezzo/numerics/suspicion.h"

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

std::mutex mutex;
uint64_t last_stretch = 0;

constexpr size_t kMostRecords = size_t{1} << 16;

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

// A boxed call shows the whole stack, of which the last ones are its own.
c10::ArrayRef<c10::IValue> own(c10::ArrayRef<c10::IValue> stack, size_t count) {
  return stack.slice(stack.size() - std::min(count, stack.size()));
}

bool is_number(const at::Tensor& tensor) {
  return tensor.dim() == 0 && tensor.unsafeGetTensorImpl()->is_wrapped_number();
}

uint64_t hash_of(const OpRecord& record, const std::vector<at::Tensor>& results) {
  uint64_t hash = 0;
  for (size_t i = 0; i < results.size(); ++i) {
    if (record.outputs[i].kinds != 0) return 0;
    hash = hash * 31 + kernels::content_hash(results[i]);
  }
  return hash;
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
  places_.settle();
  places_.take_spent_nodes();
  if (!failure_.empty())
    mezzo::detail::fail<Error>("numerics", "looking at a step's tensors failed: {}", failure_);
}

uint64_t Recorder::current_key() { return open_frames.empty() ? 0 : open_frames.back().key; }

// ---- the callbacks

std::unique_ptr<at::ObserverContext> Recorder::on_start(const at::RecordFunction& function) {
  const OpFacts* op = OpFacts::of(function);
  if (op == nullptr || op->name.starts_with("mezzo::watch_")) return nullptr;  // Python's way here
  if (at::in_parallel_region()) return nullptr;  // what a kernel's threads call is its own affair
  Places::Nodes spent;                           // let go of after the lock
  const std::scoped_lock lock(mutex);
  Recorder* recorder = active.load();
  if (recorder == nullptr) return nullptr;
  try {
    if (recorder->is_at_a_new_step()) recorder->end_step();
    spent = recorder->places_.take_spent_nodes();
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
    with_recorder([&](Recorder& recorder) { recorder.trace_.record(frame->index).birth = birth; });
  } catch (const std::exception& error) {
    with_recorder([&](Recorder& recorder) {
      recorder.failure_ = fmt::format("after {}: {}", frame->op.name, error.what());
    });
  }
}

bool Recorder::is_at_a_new_step() const {
  if (!options_.forgets_good_steps || has_enough_ || !open_frames.empty() ||
      places_.is_within_a_pass())
    return false;
  return trace_.records.size() > kMostRecords || places_.is_after_a_pass();
}

// Names stay; what else is known of memory goes, and with it no bad number.
void Recorder::end_step() {
  places_.forget_news();
  const std::vector<int64_t> ends = bad_ends(trace_);
  if (!ends.empty()) {
    has_enough_ = trace_.records.size() > kMostRecords || !may_be_search_for_scale(trace_, ends);
    return;
  }
  stretch_ = ++last_stretch;
  trace_ = {};
  ledger_.forget_writes();
  places_.forget_step();
  external_of_.clear();
  last_bad_ = -1;
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
  places_.place(record, function);
  const ScalarFacts scalars = scalar_facts(op, arguments);
  record.rounded_scalar = scalars.rounded;
  frame->has_infinite_scalar = scalars.has_infinity;
  open_frames.push_back({stretch_, frame->index, record.key});

  const Quiet quiet;
  places_.note_update(record, arguments);
  for_each_tensor(arguments, [&](size_t argument, const at::Tensor& tensor) {
    read(*frame, argument, tensor);
  });
  places_.note_parameter(record);
  record.reads_bad = reads_non_finite(record);
  frame->arguments.assign(arguments.begin(), arguments.end());
  for (size_t i = 0; i < frame->arguments.size(); ++i) {
    if (op.writes[i] && op.reads[i])
      frame->arguments[i] =
          map_tensors(frame->arguments[i], [](const at::Tensor& tensor) { return tensor.clone(); });
  }
  return frame;
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
  OpRecord& record = trace_.record(frame.index);
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

void Recorder::blame_garbage(int64_t maker) {
  OpRecord& record = trace_.record(maker);
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
  places_.place_before(unseen, reader);
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
  if (reader >= 0) trace_.record(reader).externals.push_back(at->second);
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
  const bool is_inner = trace_.record(frame.index).parent >= 0;
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
  OpRecord& record = trace_.record(frame.index);
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
    record.copies_empty = frame.garbage_maker >= 0;
    const int64_t maker = frame.op.leaves_garbage ? frame.index : frame.garbage_maker;
    for (size_t i = 0; i < call.results.size(); ++i)
      ledger_.made_garbage(call.results[i], record.outputs[i].kinds, maker);
    return std::nullopt;
  }
  // libtorch fills what at::empty makes where algorithms are deterministic.
  if (record.parent >= 0 && is_garbage_made_by(record.parent)) return std::nullopt;
  const bool is_suspect = judge(record, frame.has_infinite_scalar, last_bad_);
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
  const OpFacts* op = trace_.record(i).op;
  return op != nullptr && op->leaves_garbage;
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
