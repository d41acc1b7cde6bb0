#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

namespace mezzo::data {

/// The offset of the first byte that does not belong to well-formed UTF-8 (no overlong forms, no
/// surrogates, nothing above U+10FFFF, no cut-off character at the end); nothing if all is well.
std::optional<size_t> find_invalid_utf8(std::string_view text);

/// `text` with U+FFFD for each byte that does not belong to well-formed UTF-8: what a model writes
/// may end, or begin, in the middle of a character.
std::string to_well_formed_utf8(std::string_view text);

/// How many bytes at the end of `text` begin a character that is cut off there: 0 to 3.
size_t unfinished_utf8_tail(std::string_view text);

/// Takes the first character off `text`, which is well-formed and not empty.
char32_t take_code_point(std::string_view& text);

void append_utf8(char32_t code_point, std::string& text);

}  // namespace mezzo::data
