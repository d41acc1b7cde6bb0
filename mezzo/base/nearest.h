#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace mezzo {

/// How many insertions, deletions, replacements and swaps of neighbours turn `a` into `b`.
size_t edit_distance(std::string_view a, std::string_view b);

/// The end of an error about an unknown word: ", did you mean 'steps'?" with the nearest candidate,
/// the first of equals; "" if none is near (more than a third of the word, at least one edit).
std::string did_you_mean(std::string_view word, const std::vector<std::string>& candidates);

}  // namespace mezzo
