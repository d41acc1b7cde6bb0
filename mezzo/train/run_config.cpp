#include "mezzo/train/run_config.h"

#include <filesystem>
#include <set>

#include <fmt/ranges.h>  // fmt::join
#include <nlohmann/json.hpp>

#include "mezzo/amp/precision.h"
#include "mezzo/base/atomic_file.h"
#include "mezzo/base/check.h"
#include "mezzo/base/nearest.h"
#include "mezzo/base/toml.h"
#include "mezzo/optim/gradient_release.h"
#include "mezzo/train/fp8.h"
#include "mezzo/train/initial_weights.h"
#include "mezzo/train/rope_scaling.h"
#include "mezzo/train/run_folder.h"
#include "mezzo/train/run_options.h"

namespace mezzo::train {
namespace {

namespace fs = std::filesystem;

constexpr const char* kWhere = "config";
const std::set<std::string> kPaths = {"config", "data", "init", "out", "resume"};

const Option& known_option(const std::string& name, const std::string& source) {
  const Option* option = find_option(name);
  MEZZO_CHECK_USAGE(option, kWhere,
                    "{} is not an option{} ({}). docs/configuration.md has them all", name,
                    did_you_mean(name, option_names()), source);
  return *option;
}

// ---- TOML

std::string line_of(const toml::node& node, const std::string& file) {
  return fmt::format("{}, line {}", file, node.source().begin.line);
}

Value value_of(const toml::node& node, const std::string& name, const std::string& source) {
  if (const auto* text = node.as_string()) return text->get();
  if (const auto* number = node.as_integer()) return number->get();
  if (const auto* number = node.as_floating_point()) return number->get();
  const auto* flag = node.as_boolean();
  MEZZO_CHECK_USAGE(flag, kWhere, "{} must be a single value, but is {} ({})", name,
                    node.is_table()   ? "a table"
                    : node.is_array() ? "an array"
                                      : "a date or time",
                    source);
  return flag->get();
}

toml::table parse_toml(std::string_view text, const std::string& file) {
  try {
    return toml::parse(text, file);
  } catch (const toml::parse_error& error) {
    detail::fail<UsageError>(kWhere, "{} must be TOML, but line {} is not: {}", file,
                             error.source().begin.line, error.description());
  }
}

std::string quoted(const std::string& text) {
  // Without control characters (the check of a path sees to that) JSON's string is TOML's.
  return nlohmann::json(text).dump();
}

std::string toml_text(const Value& value) {
  if (const auto* text = std::get_if<std::string>(&value)) return quoted(*text);
  std::string text = plain(value);
  const bool is_float = std::holds_alternative<double>(value);
  if (is_float && text.find_first_of(".en") == text.npos) text += ".0";  // 1 would be an integer
  return text;
}

// ---- Layers

std::string text_of_file(const fs::path& path, const std::string& key) {
  MEZZO_CHECK_USAGE(fs::is_regular_file(path), kWhere, "{} must be a file, but {} is {} (--{})",
                    key, path.string(), fs::exists(path) ? "something else" : "not there", key);
  return read_file(path);
}

// A run's folder, or one of its checkpoints, run/checkpoints/step-N.
RunConfig config_of_run(const std::string& place) {
  const fs::path given = fs::weakly_canonical(place);
  const bool is_checkpoint = fs::exists(given / kCheckpointFile);
  const fs::path folder = is_checkpoint ? run_of(given) : given;
  const fs::path file = folder / kConfigFile;
  MEZZO_CHECK_USAGE(
      fs::is_regular_file(file), kWhere,
      "resume must be the folder of a run, or one of its checkpoints, but {} has no {} "
      "(--resume)",
      folder.string(), kConfigFile);
  RunConfig config = config_from_toml(read_file(file), file.string());
  config.resume = place;
  config.out = folder.string();  // the folder may have been moved since
  return config;
}

std::string names_that_may_change() {
  std::vector<std::string> names;
  for (const Option& option : options()) {
    if (option.on_resume == OnResume::kMayChange && option.is_stored) names.push_back(option.name);
  }
  return fmt::format("{}", fmt::join(names, ", "));
}

/// `stored` is what the run was started with, `config` the same with the command line over it.
void check_only_changes_what_may(const RunConfig& stored, const RunConfig& config) {
  for (const Option& option : options()) {
    if (option.on_resume == OnResume::kMayChange) continue;
    const auto before = get(stored, option), now = get(config, option);
    MEZZO_CHECK_USAGE(
        before == now, kWhere,
        "{} must stay {} when a run is resumed, but is {} (--{}). What may change: {}", option.name,
        before ? plain(*before) : "as the preset has it", now ? plain(*now) : "absent", option.name,
        names_that_may_change());
  }
}

// The optimizer's own reasons, and the options that they are about.
void check_gradient_release_of(const RunConfig& config) {
  if (!config.release_gradients) return;
  try {
    optim::check_gradient_release({.clips = config.clip > 0.0,
                                   .accumulate = config.accumulate,
                                   .is_loss_scaled = config.scales_loss()});
  } catch (const UsageError& error) {
    detail::fail<UsageError>(kWhere,
                             "release-gradients must be false here: {} (--clip {}, --accumulate "
                             "{}, --loss-scale {}, --precision {})",
                             error.what(), config.clip, config.accumulate, config.loss_scale,
                             config.precision);
  }
  MEZZO_CHECK_USAGE(can_release_gradients(precision_mode(config.precision)), kWhere,
                    "release-gradients must be false in {}, whose optimizer steps all parameters "
                    "at once, but is true. Hint: --precision amp-bf16, lean or fp8",
                    config.precision);
}

// 8.0,1,4,8192 is 8,1,4,8192.
void normalise(RunConfig& config) {
  if (config.rope_scaling)
    config.rope_scaling = rope_scaling_text(rope_scaling_of(*config.rope_scaling).value());
}

}  // namespace

std::optional<double> RunConfig::static_loss_scale() const { return number_of(loss_scale); }

bool RunConfig::scales_loss() const {
  return loss_scale == "auto" ? precision_mode(precision).scales_loss : loss_scale != "none";
}

RunConfig in_precision(RunConfig config, const std::string& precision) {
  config.precision = precision;
  const PrecisionMode& mode = precision_mode(precision);
  if (!mode.fp8_products) config.fp8_scaling = RunConfig().fp8_scaling;
  config.release_gradients = config.release_gradients && can_release_gradients(mode);
  return config;
}

bool can_release_gradients(const PrecisionMode& mode) {
  return mode.splits_weights || mode.moment_bits == 8;
}

CastPolicy cast_policy_of(const RunConfig& config) {
  return CastPolicy::preset(config.cast_policy).set_rules(config.cast_rules);
}

bool is_fused(const RunConfig& config) {
  const CastPolicy policy = cast_policy_of(config);
  std::string own, of_libtorch;
  for (const CastPolicy::Override& rule : policy.overrides())
    (rule.op.starts_with("mezzo::") ? own : of_libtorch) = rule.op;
  MEZZO_CHECK_USAGE(
      own.empty() || of_libtorch.empty(), "train",
      "cast-rules must be for Mezzo's fused ops or for libtorch's, but name {} and {}: with a rule "
      "for an op of libtorch's the model runs op by op, and no fused one. Hint: rules for its "
      "parts instead, as gelu=fp32, linear=fp32",
      own, of_libtorch);
  return of_libtorch.empty();
}

void apply_given(RunConfig& config, const GivenOptions& given) {
  for (const auto& [name, text] : given.values) {
    const std::string source = "--" + name;
    // A shell's variable that is not set is no wish for the default.
    MEZZO_CHECK_USAGE(!text.empty() || !kPaths.contains(name), kWhere,
                      "{} must not be empty ({}). Hint: leave it out", name, source);
    set_from_text(config, known_option(name, source), text, source);
  }
  normalise(config);
}

RunConfig config_from_toml(std::string_view text, const std::string& file) {
  RunConfig config;
  std::map<std::string, std::string> seen;
  for (const auto& [key, node] : parse_toml(text, file)) {
    const std::string name(key.str());
    const std::string source = line_of(node, file);
    const Option& option = known_option(name, source);
    MEZZO_CHECK_USAGE(option.is_stored, kWhere, "{} can only be given on the command line ({})",
                      option.name, source);
    const bool is_new = seen.emplace(option.name, name).second;
    MEZZO_CHECK_USAGE(is_new, kWhere, "{} is given twice, as {} and {} ({})", option.name,
                      seen[option.name], name, source);
    set(config, option, value_of(node, option.name, source), source);
  }
  normalise(config);
  return config;
}

RunConfig resolve_config(const GivenOptions& given) {
  const auto given_text = [&](const std::string& name) {
    const auto found = given.values.find(name);
    return found == given.values.end() ? std::string() : found->second;
  };
  const std::string resume = given_text("resume"), file = given_text("config");
  MEZZO_CHECK_USAGE(resume.empty() || file.empty(), kWhere,
                    "config must not be given with resume, but is {} (--config): {}/config.toml "
                    "is the configuration of that run",
                    file, resume);

  RunConfig config;
  if (!resume.empty()) config = config_of_run(resume);
  if (!file.empty()) config = config_from_toml(text_of_file(file, "config"), file);
  const RunConfig stored = config;
  apply_given(config, given);
  // A resume may start in another folder, and may write the same path in another way.
  for (std::string* path : {&config.data, &config.init})
    if (!path->empty()) *path = fs::absolute(*path).lexically_normal().string();
  if (!resume.empty()) config.out = fs::weakly_canonical(config.out).string();
  if (!resume.empty()) check_only_changes_what_may(stored, config);

  if (starts_from_init(config)) {
    const bool names_model = given.values.contains("model") || config.model != RunConfig().model;
    take_initial_shape(config, names_model);
  }

  // A tenth as a person writes it: 3e-05, where 3e-4 / 10 is 2.9999999999999997e-05.
  if (!config.min_lr) config.min_lr = std::stod(fmt::format("{:.12g}", config.lr / 10));
  if (!config.warmup) config.warmup = config.steps / 20;
  check_config(config);
  MEZZO_CHECK_USAGE(config.data.empty() || fs::exists(config.data), kWhere,
                    "data must be there, but {} is not{}", config.data,
                    resume.empty() ? "" : ". Hint: --data PATH, if it has been moved");
  // Whoever opens a pipe waits, deaf to Ctrl-C.
  MEZZO_CHECK_USAGE(
      config.data.empty() || fs::is_regular_file(config.data) || fs::is_directory(config.data),
      kWhere, "data must be a file or a folder, but {} is neither. Hint: write it to a file first",
      config.data);
  return config;
}

void check_config(const RunConfig& config) {
  RunConfig copy;
  for (const Option& option : options()) {
    if (const auto value = get(config, option)) set(copy, option, *value, "in this configuration");
  }
  static_cast<void>(is_fused(config));
  static_cast<void>(fp8_scaling_of(precision_mode(config.precision), config.fp8_scaling));
  MEZZO_CHECK_USAGE(config.min_lr.value_or(0) <= config.lr, kWhere,
                    "min-lr must be at most lr ({}), but is {}", config.lr, *config.min_lr);
  MEZZO_CHECK_USAGE(!config.static_loss_scale() || config.on_overflow != "retry", kWhere,
                    "on-overflow must be skip where loss-scale is a number ({}), which a retry "
                    "would not lower. Hint: --loss-scale dynamic",
                    config.loss_scale);
  check_gradient_release_of(config);
}

std::string to_toml(const RunConfig& config) {
  std::string text, group;
  for (const Option& option : options()) {
    const auto value = get(config, option);
    if (!option.is_stored || !value) continue;
    if (option.group != group)
      text += fmt::format("{}# {}\n", text.empty() ? "" : "\n", option.group);
    group = option.group;
    text += fmt::format("{:<32} # {}\n", fmt::format("{} = {}", option.name, toml_text(*value)),
                        option.help);
  }
  return text;
}

std::vector<std::pair<std::string, std::string>> settings_of(const RunConfig& config) {
  std::vector<std::pair<std::string, std::string>> settings;
  for (const Option& option : options()) {
    const auto value = get(config, option);
    if (option.is_stored && value) settings.emplace_back(option.name, plain(*value));
  }
  return settings;
}

}  // namespace mezzo::train
