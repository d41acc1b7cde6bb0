#include "mezzo/cli/wrong_words.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "mezzo/base/check.h"
#include "mezzo/base/nearest.h"

namespace mezzo::cli {
namespace {

void check_extra_words(const CLI::App& command, const std::vector<std::string>& words) {
  std::vector<std::string> names;
  for (const CLI::Option* known : command.get_options())
    for (const std::string& name : known->get_lnames()) names.push_back("--" + name);
  for (const std::string& word : words) {
    const std::string name = word.substr(0, word.find('='));
    MEZZO_CHECK_USAGE(!name.starts_with('-'), "options", "{} is not an option of {}{}", name,
                      command.get_name(), did_you_mean(name, names));
  }
  MEZZO_CHECK_USAGE(
      words.empty(), "options",
      "'{}' is a word too many for {}. Hint: a value with spaces must be in quotes, and "
      "an option that is on or off needs true or false",
      words.front(), command.get_name());
}

// What stands around `middle` in `text`; nothing if it does not stand there.
std::optional<std::pair<std::string, std::string>> split(const std::string& text,
                                                         const std::string& middle) {
  const size_t at = text.find(middle);
  if (at == text.npos) return std::nullopt;
  return std::pair(text.substr(0, at), text.substr(at + middle.size()));
}

// CLI11's errors have no parts but their text.
std::string in_our_words(const std::string& text) {
  const std::string option = text.substr(0, text.find(':'));
  if (text == "A subcommand is required") return "a command must be given";
  if (text.ends_with(" missing")) return fmt::format("{} needs a value", option);
  if (const auto parts = split(text, ": At Most 1 required but received "))
    return fmt::format("{} must be given once, but is given {} times", option, parts->second);
  if (const auto parts = split(text, " is required"))
    return fmt::format("{} must be given", parts->first);
  if (const auto parts = split(text, " excludes "))
    return fmt::format("{} cannot be given with {}", parts->first, parts->second);
  if (const auto parts = split(text, " = "); parts && text.starts_with("Could not convert: "))
    return fmt::format("{} must be a number, but is {}", split(parts->first, ": ")->second,
                       parts->second);
  if (const auto parts = split(text, " not in {"))
    return fmt::format("{} must be one of {}, but is {}", option,
                       parts->second.substr(0, parts->second.find('}')),
                       parts->first.substr(std::min(parts->first.size(), option.size() + 2)));
  return text;
}

}  // namespace

void check_commands(const CLI::App& app, const std::vector<std::string>& words) {
  std::vector<std::string> names;
  for (const CLI::App* command : app.get_subcommands(nullptr)) {
    if (!words.empty() && command->get_name() == words.front())
      return check_commands(*command, {words.begin() + 1, words.end()});
    names.push_back(command->get_name());
  }
  if (names.empty() || words.empty() || words.front().starts_with('-')) return;
  const std::string nearest = did_you_mean(words.front(), names);
  mezzo::detail::fail<UsageError>("command", "'{}' is not a command{}", words.front(),
                                  nearest.empty() ? ". Hint: --help shows them" : nearest);
}

void explain_error(const CLI::App& app, const CLI::ParseError& error) {
  std::string name = app.get_name();
  const CLI::App* command = &app;
  while (!command->get_subcommands().empty()) {
    command = command->get_subcommands().front();
    name += " " + command->get_name();
  }
  check_extra_words(*command, app.remaining(/*recurse=*/true));
  const std::string text = error.what();
  if (dynamic_cast<const CLI::ExtrasError*>(&error) == nullptr)
    mezzo::detail::fail<UsageError>("options", "{}. Hint: {} --help", in_our_words(text), name);
  mezzo::detail::fail<UsageError>("options", "{}", text);
}

}  // namespace mezzo::cli
