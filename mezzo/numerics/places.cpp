#include "mezzo/numerics/places.h"

#include <algorithm>

#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/engine.h>
#include <torch/csrc/autograd/functions/accumulate_grad.h>

#include "mezzo/base/ivalue_tensors.h"
#include "mezzo/base/scope.h"
#include "mezzo/numerics/birth.h"

namespace mezzo::numerics {
namespace {

constexpr size_t kNodesKept = 32;  // a gradient is read soon after it is made

// Splitmix64 (Vigna, public domain): small numbers beside each other must not meet.
uint64_t mixed(uint64_t a, uint64_t b) {
  uint64_t key = a * 0xbf58476d1ce4e5b9u + (b + 1) * 0x9e3779b97f4a7c15u;
  key = (key ^ (key >> 30)) * 0xbf58476d1ce4e5b9u;
  key = (key ^ (key >> 27)) * 0x94d049bb133111ebu;
  return key ^ (key >> 31);
}

}  // namespace

// ---- by where the call is

void Places::place(OpRecord& record, const at::RecordFunction& function) {
  const auto node = torch::autograd::get_current_node();
  record.module = Scope::path();
  record.parameter = last_parameter_;
  if (node != nullptr) {
    enter_pass(*node);
    place_in_backward(record, node);
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
  record.key = key_of(record);
}

// One that begins while another runs is within that one, or another thread's. The engine says when
// a pass is over, on whatever threads it ran: it lets go of what it was to call then.
void Places::enter_pass(const torch::autograd::Node& node) {
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

// A forward pass within the backward one is a checkpoint's: its ops record gradients, as do those
// of a backward pass that is to be differentiated once more.
void Places::place_in_backward(OpRecord& record,
                               const std::shared_ptr<torch::autograd::Node>& node) {
  if (recent_nodes_.empty() || recent_nodes_.back() != node) recent_nodes_.push_back(node);
  spend_nodes(kNodesKept);
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

void Places::place_at_node(OpRecord& record, const torch::autograd::Node& node) const {
  record.node = node.name();
  record.module = scopes_.path_at(node.thread_id(), node.sequence_nr());
  const auto made = record_of_node_.find({node.thread_id(), node.sequence_nr()});
  if (made == record_of_node_.end()) return;
  record.forward = made->second;
  record.parameter = trace_.record(made->second).parameter;
}

uint64_t Places::key_of(const OpRecord& record) {
  if (record.parent >= 0) {
    OpRecord& parent = trace_.record(record.parent);
    return mixed(parent.key, parent.children++);
  }
  const int sort = record.is_recomputed ? 2 : record.node.empty() ? 0 : 1;
  return mixed(static_cast<uint64_t>(record.micro_batch * 3 + sort),
               calls_[{sort, record.micro_batch}]++);
}

void Places::place_before(OpRecord& unseen, const OpRecord& reader) const {
  unseen.direction = reader.direction;
  unseen.module = reader.module;
  unseen.parameter = reader.parameter;
  unseen.micro_batch = reader.micro_batch;
  if (const auto maker = maker_of_gradient()) place_at_node(unseen, *maker);
}

// The node that handed its gradient to the one that runs now; null outside a backward pass.
std::shared_ptr<torch::autograd::Node> Places::maker_of_gradient() const {
  const auto reader = torch::autograd::get_current_node();
  for (auto node = recent_nodes_.rbegin(); node != recent_nodes_.rend(); ++node) {
    for (const torch::autograd::Edge& edge : (*node)->next_edges()) {
      if (edge.function == reader) return *node;
    }
  }
  return reader;
}

// ---- by what it reads

void Places::note_update(OpRecord& record, c10::ArrayRef<c10::IValue> arguments) {
  record.is_update = is_update(record, arguments);
  has_news_ |= record.is_update;
}

// Of an optimizer, which may do more than that between two such ops.
bool Places::is_update(const OpRecord& record, c10::ArrayRef<c10::IValue> arguments) const {
  if (record.direction != Direction::kOptimizer) return false;
  if (record.parent >= 0) return trace_.record(record.parent).is_update;
  bool reads_gradient = false, writes = false, has_parameter = false;
  for_each_tensor(arguments, [&](size_t argument, const at::Tensor& tensor) {
    const at::Tensor numbers = numbers_of(tensor);
    if (!numbers.defined()) return;
    const int64_t writer = ledger_.last_writer(numbers);
    reads_gradient |= writer >= 0 && trace_.record(writer).direction == Direction::kBackward;
    writes |= record.op->writes[argument];
    has_parameter |= ledger_.is_parameter(numbers) || (tensor.is_leaf() && tensor.requires_grad());
  });
  return reads_gradient || (writes && has_parameter);
}

void Places::note_parameter(const OpRecord& record) {
  if (record.direction == Direction::kForward && !record.parameter.empty())
    last_parameter_ = record.parameter;
}

// ---- by the whole step

// An op without gradients after a backward pass is the optimizer's, unless another forward pass
// was still to come or all updates were done: then it is within that one, or a validation.
void Places::settle() {
  const auto N = static_cast<int64_t>(trace_.records.size());
  const auto updated = std::find_if(trace_.records.rbegin(), trace_.records.rend(),
                                    [](const OpRecord& record) { return record.is_update; });
  const int64_t end_of_updates = N - (updated - trace_.records.rbegin());
  for (int64_t i = 0; i < N; ++i) {
    OpRecord& record = trace_.record(i);
    if (record.direction != Direction::kOptimizer) continue;
    const bool is_forward = i < last_backward_begin_ || i >= end_of_updates;
    if (is_forward) record.direction = Direction::kForward;
    if (i >= last_backward_begin_) record.micro_batch = 1;  // it is of no one
  }
  spend_nodes(0);
}

bool Places::is_after_a_pass() const {
  return has_news_ && at::RecordFunction::currentThreadId() == maker_of_graph_ &&
         at::GradMode::is_enabled();
}

void Places::forget_step() {
  record_of_node_.clear();
  calls_.clear();
  spend_nodes(0);
  passes_.clear();
  backwards_ = 0;
  last_backward_begin_ = -1;
}

void Places::spend_nodes(size_t kept) {
  for (; recent_nodes_.size() > kept; recent_nodes_.pop_front())
    spent_nodes_.push_back(std::move(recent_nodes_.front()));
}

}  // namespace mezzo::numerics
