#pragma once

#include <string>
#include <vector>

#include <CLI/CLI.hpp>

namespace mezzo::cli {

/// Throws UsageError, with the nearest command, if one of the words stands where a command of `app`
/// should: CLI11 says only that one is required.
void check_commands(const CLI::App& app, const std::vector<std::string>& words);

/// Throws UsageError in our words for the error that CLI11 has thrown while it read the words of
/// `app`: for an option that is none, with the nearest one.
[[noreturn]] void explain_error(const CLI::App& app, const CLI::ParseError& error);

}  // namespace mezzo::cli
