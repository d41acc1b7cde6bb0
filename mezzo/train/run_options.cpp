#include "mezzo/train/run_options.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <set>

#include <CLI/CLI.hpp>
#include <fmt/ranges.h>  // fmt::join
#include <nlohmann/json.hpp>

#include "mezzo/amp/cast_policy.h"
#include "mezzo/amp/precision.h"
#include "mezzo/base/check.h"
#include "mezzo/base/nearest.h"
#include "mezzo/models/model_config.h"
#include "mezzo/train/fp8.h"
#include "mezzo/train/rope_scaling.h"

namespace mezzo::train {
namespace {

constexpr int64_t kMaxSize = std::numeric_limits<int32_t>::max();
constexpr int64_t kMaxCount = 1'000'000'000'000;
constexpr const char* kModel = "Model";

// ---- Checks

Check one_of(std::vector<std::string> choices) {
  std::string accepted = fmt::format("one of {}", fmt::join(choices, ", "));
  auto holds = [choices](const Value& value) {
    return std::count(choices.begin(), choices.end(), std::get<std::string>(value)) > 0;
  };
  return {std::move(accepted), std::move(choices), std::move(holds)};
}

Check whole(int64_t lowest, int64_t highest) {
  return {fmt::format("from {} to {}", lowest, highest), {}, [=](const Value& value) {
            const int64_t number = std::get<int64_t>(value);
            return lowest <= number && number <= highest;
          }};
}

// All of these are false for a NaN.
Check above_zero() {
  return {"above 0 and finite", {}, [](const Value& value) {
            return std::get<double>(value) > 0 && std::isfinite(std::get<double>(value));
          }};
}

Check zero_or_above() {
  return {"0 or above and finite", {}, [](const Value& value) {
            return std::get<double>(value) >= 0 && std::isfinite(std::get<double>(value));
          }};
}

Check share() {
  return {"at least 0 and below 1", {}, [](const Value& value) {
            return std::get<double>(value) >= 0 && std::get<double>(value) < 1;
          }};
}

Check true_or_false() {
  return {"true or false", {}, [](const Value&) { return true; }};
}

// A path goes into config.toml, which is UTF-8, on one line.
bool is_plain_text(const std::string& text) {
  const bool has_control = std::any_of(text.begin(), text.end(), [](char c) {
    return static_cast<unsigned char>(c) < 0x20 || c == 0x7F;
  });
  if (has_control) return false;
  try {
    static_cast<void>(nlohmann::json(text).dump());  // throws for what is not UTF-8
    return true;
  } catch (const nlohmann::json::exception&) {
    return false;
  }
}

Check path() {
  return {"a path in UTF-8 without control characters", {}, [](const Value& value) {
            return is_plain_text(std::get<std::string>(value));
          }};
}

Check loss_scale() {
  return {"auto, none, dynamic or a number that fp32 holds (1.2e-38 to 3.4e38)",
          {"auto", "none", "dynamic"},
          [](const Value& value) {
            const auto& text = std::get<std::string>(value);
            if (text == "auto" || text == "none" || text == "dynamic") return true;
            const auto number = number_of(text);
            return number && *number >= std::numeric_limits<float>::min() &&
                   *number <= std::numeric_limits<float>::max();
          }};
}

Check cast_rules() {
  return {"a list of [scope:]op=rule, with ops and rules as mezzo ops shows them",
          {},
          [](const Value& value) { return is_plain_text(std::get<std::string>(value)); }};
}

Check rope_scaling() {
  return {
      "none, or Llama 3's FACTOR,LOW,HIGH,ORIGINAL_CONTEXT, as 32,1,4,8192",
      {"none"},
      [](const Value& value) { return rope_scaling_of(std::get<std::string>(value)).has_value(); }};
}

std::vector<std::string> precision_names() {
  std::vector<std::string> names;
  for (const PrecisionMode& mode : precision_modes()) names.emplace_back(mode.name);
  return names;
}

// ---- The table

std::vector<Option> make_options() {
  using C = RunConfig;
  constexpr OnResume kMayChange = OnResume::kMayChange;
  const std::string model = kModel, text = "Data", precision = "Precision", training = "Training",
                    machine = "Machine", run = "Run";
  const std::string preset = "the preset's";
  // clang-format off: one option, one entry, read as a table
  return {
      {model, "model", &C::model, "size preset", "", one_of(models::model_preset_names())},
      {model, "context", &C::context, "tokens a prediction can look back on", preset,
       whole(1, kMaxSize)},
      {model, "layers", &C::layers, "transformer blocks", preset, whole(1, kMaxSize)},
      {model, "heads", &C::heads, "attention heads per block; must divide width", preset,
       whole(1, kMaxSize)},
      {model, "width", &C::width, "channels of the residual stream", preset, whole(1, kMaxSize)},
      {model, "vocab-size", &C::vocab_size, "tokens in the vocabulary", preset, whole(1, kMaxSize)},
      {model, "dropout", &C::dropout, "fraction of activations dropped in training", preset,
       share()},
      {model, "bias", &C::bias, "whether linear layers and norms have a bias", preset,
       true_or_false()},
      {model, "kv-heads", &C::kv_heads, "Llama: heads of keys and values; must divide heads",
       preset, whole(1, kMaxSize)},
      {model, "mlp-width", &C::mlp_width, "Llama: channels of the gated MLP", preset,
       whole(1, kMaxSize)},
      {model, "tied", &C::tied, "Llama: whether the head is the token embedding", preset,
       true_or_false()},
      {model, "norm-eps", &C::norm_eps, "Llama: what RMSNorm adds to the mean square", preset,
       above_zero()},
      {model, "rope-base", &C::rope_base, "Llama: base of the rotary position embedding", preset,
       above_zero()},
      {model, "rope-scaling", &C::rope_scaling,
       "Llama: how the rotary position embedding is scaled to a longer context", preset,
       rope_scaling()},
      {model, "init", &C::init,
       "model to start from, which gives the shape: a run, a checkpoint or a Hugging Face folder "
       "of a GPT-2 or a Llama",
       "none: random weights", path()},

      {text, "data", &C::data, "the text or tokens to train on", "the torch wheel's *.py", path(),
       kMayChange},
      {text, "batch", &C::batch, "sequences in one forward pass", "", whole(1, kMaxSize)},
      {text, "accumulate", &C::accumulate, "forward passes whose gradients make up one step", "",
       whole(1, kMaxSize)},

      {precision, "precision", &C::precision, "precision mode", "", one_of(precision_names())},
      {precision, "fp8-scaling", &C::fp8_scaling,
       "fp8: derive each tensor's scale from its own largest number (current), or from the last 16 "
       "casts (delayed), which saves one pass over memory",
       "", one_of(fp8_scaling_names())},
      {precision, "loss-scale", &C::loss_scale,
       "loss scaling (auto: as the mode needs it; a number: a fixed scale)", "", loss_scale()},
      {precision, "on-overflow", &C::on_overflow,
       "what to do with a step whose gradients overflow: skip it, or retry it at half the scale",
       "", one_of({"skip", "retry"}), kMayChange},
      {precision, "diagnose", &C::diagnose,
       "how many unexplained non-finite steps to diagnose, as mezzo doctor does; 0: none", "",
       whole(0, kMaxCount), kMayChange},
      {precision, "watch", &C::watch,
       "measure weights, activations and gradients every N steps, and warn of trends that end in "
       "NaN; 0: never",
       "", whole(0, kMaxCount), kMayChange},
      {precision, "cast-policy", &C::cast_policy, "which op runs in which dtype under autocast", "",
       one_of(CastPolicy::preset_names())},
      {precision, "cast-rules", &C::cast_rules,
       "changes to the cast policy, such as softmax=lower, h.*.attn:linear=fp32 (see mezzo ops)",
       "none", cast_rules()},
      {precision, "recompute", &C::recompute,
       "what the backward pass recomputes instead of storing; the same bits in less memory", "",
       one_of({"none", "elementwise", "layer"}), kMayChange},
      {precision, "release-gradients", &C::release_gradients,
       "update each parameter during the backward pass and free its gradient at once; needs clip "
       "0, accumulate 1, no loss scale, and amp-bf16, lean or fp8; the same bits in less memory",
       "", true_or_false(), kMayChange},

      {training, "steps", &C::steps, "total optimizer steps, including those before a resume", "",
       whole(1, kMaxCount), kMayChange},
      {training, "lr", &C::lr, "highest learning rate", "", above_zero()},
      {training, "min-lr", &C::min_lr, "learning rate at the end of the schedule; at most lr",
       "lr / 10", zero_or_above()},
      {training, "warmup", &C::warmup, "steps over which the learning rate rises to lr",
       "steps / 20", whole(0, kMaxCount)},
      {training, "schedule", &C::schedule, "how the learning rate falls after the warm-up", "",
       one_of({"cosine", "linear", "constant"})},
      {training, "beta1", &C::beta1, "AdamW: decay of the mean of the gradients", "", share()},
      {training, "beta2", &C::beta2, "AdamW: decay of the mean of their squares", "", share()},
      {training, "eps", &C::eps, "AdamW: added to the root of the second moment", "", above_zero()},
      {training, "weight-decay", &C::weight_decay,
       "AdamW: decay of weight matrices, times the learning rate", "", zero_or_above()},
      {training, "clip", &C::clip, "maximum norm of all gradients together; 0: no limit", "",
       zero_or_above()},
      {training, "seed", &C::seed, "seed of the weights, the order of the data and dropout", "",
       whole(0, std::numeric_limits<int64_t>::max())},

      {machine, "device", &C::device, "device to compute on", "", one_of({"cpu", "cuda"})},
      {machine, "threads", &C::threads, "CPU threads, at most 256 or four a core; 0: one per core",
       "", whole(0, kMaxSize), kMayChange},

      {run, "out", &C::out, "folder of the run", "runs/DATE-TIME-MODEL-PRECISION", path()},
      {run, "resume", &C::resume, "folder of a run to resume, or one of its checkpoints", "none",
       path(), OnResume::kMayChange, false},
      {run, "config", &C::config, "TOML file with any of these options except config and resume",
       "none", path(), OnResume::kMustStay, false},
      {run, "checkpoint-every", &C::checkpoint_every,
       "steps between checkpoints; 0: only at the end", "", whole(0, kMaxCount), kMayChange},
      {run, "keep-checkpoints", &C::keep_checkpoints, "how many of the newest checkpoints to keep",
       "", whole(1, kMaxSize), kMayChange},
      {run, "eval-every", &C::eval_every,
       "steps between evaluations, besides one for each checkpoint; 0: only those", "",
       whole(0, kMaxCount), kMayChange},
      {run, "eval-batches", &C::eval_batches, "batches of held-out text in an evaluation", "",
       whole(1, kMaxSize), kMayChange},
      {run, "sample-tokens", &C::sample_tokens,
       "tokens of sample text written after training; 0: none", "", whole(0, kMaxSize), kMayChange},
  };
  // clang-format on
}

// ---- Types

template <class T>
struct Unwrapped {
  using type = T;
};
template <class T>
struct Unwrapped<std::optional<T>> {
  using type = T;
};

/// Calls `visit` with the member's value in `config`, whatever its type.
template <class Config, class Visit>
auto with_member(Config& config, const Option& option, Visit visit) {
  return std::visit([&](auto member) { return visit(config.*member); }, option.member);
}

/// What the member holds: "an integer".
std::string type_name(const Option& option) {
  RunConfig any;
  return with_member(any, option, [](const auto& slot) -> std::string {
    using T = typename Unwrapped<std::decay_t<decltype(slot)>>::type;
    if constexpr (std::is_same_v<T, bool>) return "true or false";
    if constexpr (std::is_same_v<T, int64_t>) return "an integer";
    if constexpr (std::is_same_v<T, double>) return "a number";
    return "a string";
  });
}

std::string described(const Value& value) {
  if (const auto* text = std::get_if<std::string>(&value)) {
    return fmt::format(
        "the string {}",
        nlohmann::json(*text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
  }
  return plain(value);
}

/// `value` as the type T of an option, or nothing.
template <class T>
std::optional<T> converted(const Value& value, const Option& option) {
  if (const T* same = std::get_if<T>(&value)) return *same;
  if constexpr (std::is_same_v<T, double>) {
    if (const auto* number = std::get_if<int64_t>(&value)) return static_cast<double>(*number);
  }
  if constexpr (std::is_same_v<T, std::string>) {
    // The one option that takes words and numbers.
    const bool is_number =
        std::holds_alternative<int64_t>(value) || std::holds_alternative<double>(value);
    if (option.name == "loss-scale" && is_number) return plain(value);
  }
  return std::nullopt;
}

std::string default_text(const Option& option) {
  if (!option.absent.empty()) return option.absent;
  return plain(get(RunConfig{}, option).value());
}

std::string help_of(const Option& option) {
  if (option.check.choices.empty()) return option.help;
  return fmt::format("{} [{}]", option.help, fmt::join(option.check.choices, ", "));
}

/// Nothing where `text` is no number, nor where it is one beyond those that T holds.
template <class T>
std::optional<T> parse(const std::string& text, bool& is_beyond) {
  T number = 0;
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, number);
  if (stop != end || error == std::errc::invalid_argument) return std::nullopt;
  is_beyond = error == std::errc::result_out_of_range;
  return is_beyond ? std::nullopt : std::optional(number);
}

}  // namespace

const std::vector<Option>& options() {
  static const std::vector<Option> all = make_options();
  return all;
}

std::vector<const Option*> shape_options() {
  static const std::set<std::string> others = {"model", "dropout", "init"};
  std::vector<const Option*> found;
  for (const Option& option : options())
    if (option.group == kModel && !others.contains(option.name)) found.push_back(&option);
  return found;
}

const Option* find_option(const std::string& name) {
  std::string dashed = name;
  std::replace(dashed.begin(), dashed.end(), '_', '-');
  const auto found = std::find_if(options().begin(), options().end(),
                                  [&](const Option& option) { return option.name == dashed; });
  return found == options().end() ? nullptr : &*found;
}

std::optional<Value> get(const RunConfig& config, const Option& option) {
  return with_member(config, option, [](const auto& slot) -> std::optional<Value> {
    using Slot = std::decay_t<decltype(slot)>;
    if constexpr (std::is_same_v<Slot, typename Unwrapped<Slot>::type>) {
      return Value(slot);
    } else {
      return slot ? std::optional<Value>(*slot) : std::nullopt;
    }
  });
}

void set(RunConfig& config, const Option& option, const Value& value, const std::string& source) {
  with_member(config, option, [&](auto& slot) {
    using T = typename Unwrapped<std::decay_t<decltype(slot)>>::type;
    const std::optional<T> fitting = converted<T>(value, option);
    MEZZO_CHECK_USAGE(fitting, "config", "{} must be {}, but is {} ({})", option.name,
                      type_name(option), described(value), source);
    const auto* word = std::get_if<std::string>(&value);
    MEZZO_CHECK_USAGE(option.check.holds(Value(*fitting)), "config",
                      "{} must be {}, but is {}{} ({})", option.name, option.check.accepted,
                      described(value), word ? did_you_mean(*word, option.check.choices) : "",
                      source);
    slot = *fitting;
  });
}

void set_from_text(RunConfig& config, const Option& option, const std::string& text,
                   const std::string& source) {
  Value value = text;  // stays text, and is refused as such, where it is no number
  bool is_beyond = false;
  with_member(config, option, [&](const auto& slot) {
    using T = typename Unwrapped<std::decay_t<decltype(slot)>>::type;
    if constexpr (std::is_same_v<T, bool>) {
      if (text == "true" || text == "false") value = text == "true";
    } else if constexpr (std::is_same_v<T, int64_t> || std::is_same_v<T, double>) {
      if (const auto number = parse<T>(text, is_beyond)) value = *number;
    }
  });
  MEZZO_CHECK_USAGE(!is_beyond, "config", "{} must be {}, but {} is out of range ({})", option.name,
                    option.check.accepted, text, source);
  set(config, option, value, source);
}

std::optional<double> number_of(const std::string& text) {
  bool is_beyond = false;
  return parse<double>(text, is_beyond);
}

std::string plain(const Value& value) {
  return std::visit([](const auto& held) { return fmt::format("{}", held); }, value);
}

std::vector<std::string> option_names() {
  std::vector<std::string> names;
  for (const Option& option : options()) names.push_back(option.name);
  return names;
}

void add_options(CLI::App& app, GivenOptions& given) {
  for (const Option& option : options()) {
    const std::string name = option.name;
    app.add_option_function<std::string>(
           "--" + name, [&given, name](const std::string& text) { given.values[name] = text; },
           help_of(option))
        ->group(option.group)
        ->type_name(fmt::format("({})", default_text(option)));
  }
}

std::string options_markdown() {
  std::string text, group;
  for (const Option& option : options()) {
    if (option.group != group) {
      text += fmt::format(
          "{}### {}\n\n| option | default | accepted | meaning |\n"
          "| --- | --- | --- | --- |\n",
          text.empty() ? "" : "\n", option.group);
    }
    group = option.group;
    text += fmt::format("| `--{}` | {} | {} | {} |\n", option.name, default_text(option),
                        option.check.accepted, option.help);
  }
  return text;
}

}  // namespace mezzo::train
