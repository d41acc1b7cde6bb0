#pragma once

#include <string>

namespace mezzo::cli {

/// `text` as a word that a shell takes for it, in a command to be copied: quoted where it must be.
std::string shell_word(const std::string& text);

}  // namespace mezzo::cli
