#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "mezzo/amp/cast_policy.h"
#include "mezzo/amp/precision.h"

namespace mezzo::train {

/// Everything that decides a training run. run_options.cpp has the name, the meaning and the check
/// of each member; docs/configuration.md is made from there.
struct RunConfig {
  std::string model = "nano";
  std::optional<int64_t> context, layers, heads, width, vocab_size;  // absent: the preset's
  std::optional<double> dropout;
  std::optional<bool> bias;
  std::optional<int64_t> kv_heads, mlp_width;  // these: a Llama's
  std::optional<bool> tied;
  std::optional<double> norm_eps, rope_base;
  std::optional<std::string> rope_scaling;  // rope_scaling.h
  std::string init;

  std::string data;
  int64_t batch = 8;
  int64_t accumulate = 1;

  std::string precision = "amp-bf16";
  std::string fp8_scaling = "current";
  std::string loss_scale = "auto";
  std::string on_overflow = "skip";
  int64_t diagnose = 3;
  int64_t watch = 0;
  std::string cast_policy = "mezzo";
  std::string cast_rules;  // CastPolicy::set_rules' text
  std::string recompute = "elementwise";
  bool release_gradients = false;

  int64_t steps = 1000;
  double lr = 3e-4;
  std::optional<double> min_lr;   // absent only before resolve_config: then lr / 10
  std::optional<int64_t> warmup;  // absent only before resolve_config: then steps / 20
  std::string schedule = "cosine";
  double beta1 = 0.9;
  double beta2 = 0.95;
  double eps = 1e-8;
  double weight_decay = 0.1;
  double clip = 1.0;

  int64_t seed = 1337;
  std::string device = "cpu";
  int64_t threads = 0;

  std::string out;  // empty: one named by the time, which RunFolder makes
  std::string resume;
  std::string config;
  int64_t checkpoint_every = 250;
  int64_t keep_checkpoints = 2;
  int64_t eval_every = 100;
  int64_t eval_batches = 20;
  int64_t sample_tokens = 120;

  bool operator==(const RunConfig&) const = default;

  /// The fixed scale where --loss-scale is a number; otherwise nothing.
  std::optional<double> static_loss_scale() const;
  /// Whether the loss is scaled: as --loss-scale says, or as the mode needs it.
  bool scales_loss() const;
};

/// The same run in another precision, without what that does not take (fp8-scaling,
/// release-gradients).
RunConfig in_precision(RunConfig config, const std::string& precision);

/// Whether the mode's optimizer can step a parameter in the backward pass (release-gradients).
bool can_release_gradients(const PrecisionMode& mode);

/// The cast policy with its rules. Throws UsageError for a rule that cannot be.
CastPolicy cast_policy_of(const RunConfig& config);

/// Whether the model runs Mezzo's fused ops. With a rule for an op of libtorch's it runs op by op,
/// so that the rule acts where that op runs. Throws UsageError for rules of both kinds at once.
bool is_fused(const RunConfig& config);

/// What was said on the command line: option names without dashes, values as they were typed.
struct GivenOptions {
  std::map<std::string, std::string> values;
};

/// The configuration of a run: the command line over the file of --config over the defaults; or,
/// with --resume DIR, the run's config.toml with those few options over it that may change on a
/// resume. Throws UsageError, naming the key, its value, where it came from and what is accepted.
RunConfig resolve_config(const GivenOptions& given);

/// Sets what was given, each value checked alone. Throws UsageError as above.
void apply_given(RunConfig& config, const GivenOptions& given);

/// Reads TOML text over the defaults. `file` names it in errors. Throws UsageError as above.
RunConfig config_from_toml(std::string_view toml, const std::string& file);

/// The configuration as TOML with a comment a line; config_from_toml gives the identical one back
/// (but for `config` and `resume`, which say how to start and are not part of it).
std::string to_toml(const RunConfig& config);

/// Checks each value alone and those that must agree (min-lr is at most lr). Throws UsageError. For
/// a configuration made in code; resolve_config has done it. What only one room can know (whether
/// heads divides width) is checked there.
void check_config(const RunConfig& config);

/// Name and value of everything that is set: the table shown at the start of a run.
std::vector<std::pair<std::string, std::string>> settings_of(const RunConfig& config);

}  // namespace mezzo::train
