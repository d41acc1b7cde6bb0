#pragma once

#include <string>
#include <string_view>

namespace mezzo::data {

/// A splitting pattern of a tokenizer.json, which means what Oniguruma (Unicode 16) reads in it, as
/// the PCRE2 pattern that matches the same text. Throws Error, naming the construct and its place,
/// for what the two read differently or what no known tokenizer uses (anchors, \w, back-references,
/// nested classes, a possessive counted repeat, ...).
std::string to_pcre2(std::string_view pattern);

}  // namespace mezzo::data
