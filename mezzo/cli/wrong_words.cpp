#include "mezzo/cli/wrong_words.h"

#include "mezzo/base/check.h"
#include "mezzo/base/nearest.h"

namespace mezzo::cli {

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
  const std::string text = error.what();
  const std::string option = text.substr(0, text.find(':'));
  MEZZO_CHECK_USAGE(!text.ends_with(" missing"), "options", "{} needs a value", option);
  if (dynamic_cast<const CLI::ExtrasError*>(&error) == nullptr) return;
  const CLI::App* command = &app;
  while (!command->get_subcommands().empty()) command = command->get_subcommands().front();
  std::vector<std::string> names;
  for (const CLI::Option* known : command->get_options())
    for (const std::string& name : known->get_lnames()) names.push_back("--" + name);
  for (const std::string& word : command->remaining()) {
    const std::string name = word.substr(0, word.find('='));
    MEZZO_CHECK_USAGE(!name.starts_with("--"), "options", "{} is not an option of {}{}", name,
                      command->get_name(), did_you_mean(name, names));
  }
}

}  // namespace mezzo::cli
