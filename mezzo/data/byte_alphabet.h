#pragma once

#include <array>
#include <optional>
#include <string>
#include <string_view>

namespace mezzo::data {

// A tokenizer.json spells every byte as a printable character: bytes that are printable in Latin-1
// as themselves, the 68 others, in order, as U+0100 and up ("Ġ" is the space).

/// `bytes` as a tokenizer.json spells them.
std::string to_byte_alphabet(std::string_view bytes);

/// The bytes that `spelled` (well-formed UTF-8) stands for; nothing if one of its characters stands
/// for no byte.
std::optional<std::string> from_byte_alphabet(std::string_view spelled);

/// The 256 bytes by the code point of their character: the order of a trained vocabulary.
const std::array<char, 256>& bytes_in_alphabet_order();

}  // namespace mezzo::data
