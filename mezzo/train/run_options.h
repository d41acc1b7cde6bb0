#pragma once

#include <functional>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "mezzo/train/run_config.h"

namespace CLI {
class App;
}

namespace mezzo::train {

/// A value of an option, in one of the types that a command line and TOML share.
using Value = std::variant<bool, int64_t, double, std::string>;

/// Where the value of an option is kept.
using Member = std::variant<std::string RunConfig::*, int64_t RunConfig::*, double RunConfig::*,
                            bool RunConfig::*, std::optional<int64_t> RunConfig::*,
                            std::optional<double> RunConfig::*, std::optional<bool> RunConfig::*,
                            std::optional<std::string> RunConfig::*>;

/// Which values an option takes, beyond their type.
struct Check {
  std::string accepted;              // "at least 1": stands after "must be"
  std::vector<std::string> choices;  // the words, where there are only some
  std::function<bool(const Value&)> holds;
};

enum class OnResume { kMustStay, kMayChange };

/// One option: all that the command line, the TOML file, the table at start and the page know of
/// it.
struct Option {
  std::string group;
  std::string name;
  Member member;
  std::string help;         // with the unit, and what 0 means
  std::string absent = "";  // what holds when it is not given, where that is not a plain value
  Check check;
  OnResume on_resume = OnResume::kMustStay;
  bool is_stored = true;  // part of config.toml
};

const std::vector<Option>& options();

/// Those that change a preset's shape: the model's, but for model, dropout and init.
std::vector<const Option*> shape_options();

/// The option with this name, with dashes or underscores; null if there is none.
const Option* find_option(const std::string& name);

/// The value in `config`; nothing if it is absent.
std::optional<Value> get(const RunConfig& config, const Option& option);

/// Sets a value after checking its type and range. A whole number serves where a number is wanted.
/// Throws UsageError: "NAME must be ..., but is ... (SOURCE)".
void set(RunConfig& config, const Option& option, const Value& value, const std::string& source);

/// The same from a word of the command line.
void set_from_text(RunConfig& config, const Option& option, const std::string& text,
                   const std::string& source);

/// The number that the whole text is, if it is one.
std::optional<double> number_of(const std::string& text);

/// A value as a person writes it: 0.0003, true, cosine.
std::string plain(const Value& value);

/// Every option's name, without dashes.
std::vector<std::string> option_names();

/// Adds every option to `app`, whose parse then fills `given` (it must outlive the parse).
void add_options(CLI::App& app, GivenOptions& given);

/// The table of docs/configuration.md.
std::string options_markdown();

}  // namespace mezzo::train
