#include "mezzo/base/scope.h"

#include <atomic>
#include <utility>

#include <fnmatch.h>

namespace mezzo {
namespace {

struct Current {
  std::string path;
  uint64_t version = 0;
};

Current& current() {
  thread_local Current value;
  return value;
}

std::atomic<ScopeObserver> observer_of_all{nullptr};

void has_changed(Current& now) {
  ++now.version;
  const ScopeObserver observer = observer_of_all.load(std::memory_order_relaxed);
  if (observer != nullptr) observer(now.path);
}

// Takes the first name off a dotted path.
std::string take_name(std::string_view& path) {
  const size_t dot = path.find('.');
  const std::string name(path.substr(0, dot));
  path.remove_prefix(dot == std::string_view::npos ? path.size() : dot + 1);
  return name;
}

}  // namespace

Scope::Scope(std::string_view name) : outer_length_(current().path.size()) {
  Current& now = current();
  if (!now.path.empty()) now.path += '.';
  now.path += name;
  has_changed(now);
}

Scope::~Scope() {
  Current& now = current();
  now.path.resize(outer_length_);
  has_changed(now);
}

ScopePath::ScopePath(std::string path) : outer_(std::exchange(current().path, std::move(path))) {
  has_changed(current());
}

ScopePath::~ScopePath() {
  current().path = std::move(outer_);
  has_changed(current());
}

const std::string& Scope::path() { return current().path; }

uint64_t Scope::version() { return current().version; }

void set_scope_observer(ScopeObserver observer) { observer_of_all = observer; }

bool is_in_scope(std::string_view path, std::string_view pattern) {
  while (!pattern.empty()) {
    if (path.empty()) return false;
    if (::fnmatch(take_name(pattern).c_str(), take_name(path).c_str(), 0) != 0) return false;
  }
  return true;
}

}  // namespace mezzo
