#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <ATen/record_function.h>
#include <torch/csrc/autograd/function.h>

#include "mezzo/numerics/ledger.h"
#include "mezzo/numerics/scope_log.h"
#include "mezzo/numerics/trace.h"

namespace mezzo::numerics {

/// Says where in a step each op stands: in the forward pass, the backward one or the optimizer, in
/// which micro-batch, module and node of autograd, and under which key. Not for use by two threads
/// at once.
class Places {
 public:
  /// Of the records of `trace`, whose tensors `ledger` knows.
  Places(Trace& trace, const Ledger& ledger) : trace_(trace), ledger_(ledger) {}

  /// Fills in what is known when the call begins. The record is the trace's last.
  void place(OpRecord& record, const at::RecordFunction& function);
  /// Whether it is an optimizer's update, which its arguments tell.
  void note_update(OpRecord& record, c10::ArrayRef<c10::IValue> arguments);
  /// The parameter that it has been found to read is that of the ops after it, too.
  void note_parameter(const OpRecord& record);
  /// Of code that is no op of the dispatcher, whose result `reader` was given.
  void place_before(OpRecord& unseen, const OpRecord& reader) const;
  /// At the trace's end: which of the ops without gradients were the optimizer's.
  void settle();

  bool is_within_a_pass() const { return !running_passes_.expired(); }
  /// The thread that made the last graph goes on after its backward pass, or after an update; not
  /// said again until the next one, once forget_news() was called.
  bool is_after_a_pass() const;
  void forget_news() { has_news_ = false; }
  /// The trace begins anew.
  void forget_step();

  using Nodes = std::vector<std::shared_ptr<torch::autograd::Node>>;
  /// Those not looked at any more, to be let go of where no lock is held: the last reference to a
  /// node of Python's takes Python's own lock, which a thread that is about to take ours may hold.
  Nodes take_spent_nodes() { return std::exchange(spent_nodes_, {}); }

 private:
  void enter_pass(const torch::autograd::Node& node);
  void place_in_backward(OpRecord& record, const std::shared_ptr<torch::autograd::Node>& node);
  void place_at_node(OpRecord& record, const torch::autograd::Node& node) const;
  std::shared_ptr<torch::autograd::Node> maker_of_gradient() const;
  void spend_nodes(size_t kept);
  uint64_t key_of(const OpRecord& record);
  bool is_update(const OpRecord& record, c10::ArrayRef<c10::IValue> arguments) const;

  Trace& trace_;
  const Ledger& ledger_;
  ScopeLog scopes_;
  std::map<std::pair<uint64_t, uint64_t>, int64_t> record_of_node_;  // thread, sequence number
  std::map<std::pair<int, int64_t>, uint64_t> calls_;                // of a sort in a micro-batch
  std::deque<std::shared_ptr<torch::autograd::Node>> recent_nodes_;
  Nodes spent_nodes_;
  std::string last_parameter_;
  int64_t backwards_ = 0;                     // that have begun
  std::weak_ptr<const bool> running_passes_;  // lives as long as one of them runs
  std::set<int> passes_;                      // by autograd's number
  uint64_t maker_of_graph_ = 0;               // the thread
  int64_t last_backward_begin_ = -1;
  bool has_news_ = false;  // a pass or an update
};

}  // namespace mezzo::numerics
