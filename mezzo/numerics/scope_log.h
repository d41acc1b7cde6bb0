#pragma once

#include <cstdint>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

namespace mezzo::numerics {

/// Which mezzo::Scope was open when a node of autograd was made: nodes are numbered in the order in
/// which a thread makes them, and each Scope's beginning and end is noted with the number that the
/// next node will get, while a log lives. There may be several.
class ScopeLog {
 public:
  ScopeLog();
  ~ScopeLog();
  ScopeLog(const ScopeLog&) = delete;
  ScopeLog& operator=(const ScopeLog&) = delete;

  /// The path of the calling thread is `path` from now on.
  void note(const std::string& path);
  /// Where the node was made that `thread` gave the number `sequence`; "" for one that many Scopes
  /// have followed.
  std::string path_at(uint64_t thread, uint64_t sequence) const;

 private:
  struct Entry {
    uint64_t sequence;
    std::string path;
  };
  mutable std::mutex mutex_;
  std::unordered_map<uint64_t, std::vector<Entry>> by_thread_;
};

}  // namespace mezzo::numerics
