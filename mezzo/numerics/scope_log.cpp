#include "mezzo/numerics/scope_log.h"

#include <algorithm>
#include <iterator>
#include <set>

#include <ATen/SequenceNumber.h>
#include <ATen/record_function.h>

#include "mezzo/base/scope.h"

namespace mezzo::numerics {
namespace {

// Of a thread: what is watched may run for days, and a backward pass soon follows its forward one.
constexpr int64_t kMost = int64_t{1} << 16;

// The one owner of the observer.
std::mutex mutex;
std::set<ScopeLog*> logs;

void note_in_all(const std::string& path) {
  const std::scoped_lock lock(mutex);
  for (ScopeLog* log : logs) log->note(path);
}

}  // namespace

ScopeLog::ScopeLog() {
  note(Scope::path());
  const std::scoped_lock lock(mutex);
  logs.insert(this);
  set_scope_observer(&note_in_all);
}

ScopeLog::~ScopeLog() {
  const std::scoped_lock lock(mutex);
  logs.erase(this);
  if (logs.empty()) set_scope_observer(nullptr);
}

void ScopeLog::note(const std::string& path) {
  const std::scoped_lock lock(mutex_);
  std::vector<Entry>& entries = by_thread_[at::RecordFunction::currentThreadId()];
  if (std::ssize(entries) == kMost) entries.erase(entries.begin(), entries.begin() + kMost / 2);
  entries.push_back({at::sequence_number::peek(), path});
}

std::string ScopeLog::path_at(uint64_t thread, uint64_t sequence) const {
  const std::scoped_lock lock(mutex_);
  const auto found = by_thread_.find(thread);
  if (found == by_thread_.end()) return "";
  const std::vector<Entry>& entries = found->second;
  const auto after =
      std::upper_bound(entries.begin(), entries.end(), sequence,
                       [](uint64_t number, const Entry& entry) { return number < entry.sequence; });
  return after == entries.begin() ? "" : std::prev(after)->path;
}

}  // namespace mezzo::numerics
