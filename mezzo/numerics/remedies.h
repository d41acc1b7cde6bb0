#pragma once

#include <set>
#include <string>
#include <utility>
#include <vector>

#include "mezzo/numerics/roots.h"

namespace mezzo::numerics {

/// A change that may cure a finding, before it is tried.
struct Trial {
  Change change;
  std::set<std::string> cleaned;  ///< externals whose numbers that are not finite become 0
  std::string what;               ///< in words
  std::string advice;             ///< what to write
  struct Rule {
    std::string op;
    std::vector<std::string> modules;
  };
  std::vector<Rule> rules = {};  ///< what the advice is made of, where it is a cast policy
};

/// What is worth trying for the first of `roots`, the cheapest first.
std::vector<Trial> trials_for(const std::vector<Root>& roots, const Replay& before,
                              const Finding& finding);

/// The same beside a loss scale far lower.
Trial with_lower_scale(Trial trial, const Trace& trace);

/// The same with those ops that had to follow it (Replay::followers) and that Autocast would have
/// cast their input down again.
Trial with_followers(Trial trial, const Trace& trace, const std::set<int64_t>& followers);

bool is_overflow(Cause cause);

/// Ops in fp32, where a swallowed overflow may have been.
Change ops_in_fp32(const Root& root);

/// The records whose results begin the backward passes, which are of the loss' scale.
std::set<int64_t> seeds_of(const Trace& trace);

}  // namespace mezzo::numerics
