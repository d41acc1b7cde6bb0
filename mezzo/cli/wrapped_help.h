#pragma once

#include <string>

#include <CLI/CLI.hpp>

namespace mezzo::cli {

/// CLI11's help, in lines that fit the terminal ($COLUMNS where that is set), of at most 120
/// columns.
class WrappedHelp : public CLI::Formatter {
 public:
  std::string make_description(const CLI::App* app) const override;
  std::string make_subcommand(const CLI::App* command) const override;
  std::string make_option_desc(const CLI::Option* option) const override;
};

}  // namespace mezzo::cli
