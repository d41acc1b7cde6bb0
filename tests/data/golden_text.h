#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "mezzo/data/tokenizer.h"

namespace mezzo::data::testing {

/// The text of tests/reference/make_tokenizer_goldens.py: fragments in every script, words of
/// random letters and random characters of all of Unicode, 64 chunks of 16 KiB.
constexpr int kChunks = 64;
std::string golden_chunk(int index);
std::vector<std::string> golden_chunks();
const std::vector<std::string>& golden_fragments();

std::string golden_path(const std::string& name);

/// `count` characters of all of Unicode, the lower ones more often.
std::string random_text(uint64_t seed, int count);

}  // namespace mezzo::data::testing
