#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace mezzo {

/// Names the part of a model that runs while it lives: `const Scope scope("blocks.3.attn");` at the
/// top of a module's forward. Scopes nest: inside, Scope("softmax") is "blocks.3.attn.softmax".
/// Costs nanoseconds. The path belongs to the thread.
class Scope {
 public:
  /// name: of this part within the part around it; may have dots.
  [[nodiscard]] explicit Scope(std::string_view name);
  ~Scope();
  Scope(const Scope&) = delete;
  Scope& operator=(const Scope&) = delete;

  /// The names of the scopes around, joined by dots; "" outside any.
  static const std::string& path();

  /// Changes whenever path() may have changed, so that what was found for a path can be kept.
  static uint64_t version();

 private:
  size_t outer_length_;
};

/// Makes path() this one while it lives, whatever is around: for what belongs to a part of a model
/// but is run from elsewhere.
class ScopePath {
 public:
  explicit ScopePath(std::string path);
  ~ScopePath();
  ScopePath(const ScopePath&) = delete;
  ScopePath& operator=(const ScopePath&) = delete;

 private:
  std::string outer_;
};

/// Called on the thread of a Scope whenever one begins or ends on it, with its path() from then on.
using ScopeObserver = void (*)(const std::string& path);

/// One for the process; null: none. Not while Scopes begin or end on other threads.
void set_scope_observer(ScopeObserver observer);

/// Whether `path` lies in a scope that `pattern` names: "blocks.*.attn" holds for "blocks.3.attn"
/// and for all within. A name in the pattern may have the shell's wildcards (*, ?, [0-2]), which do
/// not reach over a dot. The empty pattern holds everywhere.
bool is_in_scope(std::string_view path, std::string_view pattern);

}  // namespace mezzo
