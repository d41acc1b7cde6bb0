#include "mezzo/train/run_config.h"

#include <set>

#include <CLI/CLI.hpp>

#include "mezzo/base/check.h"
#include "mezzo/models/gpt2.h"
#include "mezzo/optim/schedule.h"
#include "mezzo/train/fp8.h"
#include "mezzo/train/run_options.h"
#include "tests/testing.h"

namespace mezzo::train {
namespace {

using ::testing::HasSubstr;

RunConfig resolve(std::map<std::string, std::string> values) {
  return resolve_config({std::move(values)});
}

/// Every member away from its default.
RunConfig unusual_config() {
  RunConfig c;
  c.model = "gpt2";
  c.context = 128;
  c.layers = 3;
  c.heads = 2;
  c.width = 64;
  c.vocab_size = 300;
  c.dropout = 0.1;
  c.bias = false;
  c.kv_heads = 1;
  c.mlp_width = 96;
  c.tied = false;
  c.norm_eps = 1e-6;
  c.rope_base = 5e5;
  c.rope_scaling = "32,1,4,8192";
  c.init = "runs/a run";
  c.data = "a \"quoted\" \\ back\\slash ünd more";
  c.batch = 3;
  c.accumulate = 5;
  c.precision = "pure-fp16";
  c.fp8_scaling = "delayed";
  c.loss_scale = "1024.5";
  c.on_overflow = "retry";
  c.cast_policy = "pytorch-cpu";
  c.cast_rules = "softmax=lower, h.*.attn:mm=fp32";
  c.steps = 17;
  c.lr = 1.0 / 3;
  c.min_lr = 0;
  c.warmup = 0;
  c.schedule = "linear";
  c.beta1 = 0.1;
  c.beta2 = 0.3;
  c.eps = 1e-300;
  c.weight_decay = 2;
  c.clip = 0.5;
  c.seed = INT64_MAX;
  c.recompute = "layer";
  c.release_gradients = true;
  c.diagnose = 1;
  c.watch = 25;
  c.device = "cuda";
  c.threads = 7;
  c.out = "runs/ü";
  c.checkpoint_every = 11;
  c.keep_checkpoints = 9;
  c.eval_every = 13;
  c.eval_batches = 1;
  c.sample_tokens = 99;
  return c;
}

TEST(RunConfig, TomlGivesTheIdenticalConfigBack) {
  for (const RunConfig& config : {RunConfig{}, unusual_config()}) {
    EXPECT_EQ(config_from_toml(to_toml(config), "x"), config) << to_toml(config);
  }
}

TEST(RunConfig, EveryStoredOptionIsInTheTableOnceAndMovesItsOwnMember) {
  const RunConfig defaults, unusual = unusual_config();
  std::set<std::string> names;
  for (const Option& option : options()) {
    EXPECT_TRUE(names.insert(option.name).second) << option.name;
    if (!option.is_stored) continue;
    EXPECT_NE(get(defaults, option), get(unusual, option)) << option.name;
  }
  // Moved one by one from the defaults, they make the whole: no member is without an option.
  RunConfig moved;
  for (const Option& option : options()) {
    if (option.is_stored) set(moved, option, get(unusual, option).value(), "test");
  }
  EXPECT_EQ(moved, unusual);
}

TEST(RunConfig, TheDefaultsPassTheirOwnChecks) { EXPECT_NO_THROW(check_config(RunConfig{})); }

TEST(RunConfig, RulesForLibtorchsOpsTakeTheFusedOnesApart) {
  RunConfig config;
  EXPECT_TRUE(is_fused(config));
  config.cast_rules = "h.0.mlp:mezzo::gelu_linear=fp32, mezzo::linear_cross_entropy=fp32";
  EXPECT_TRUE(is_fused(config));
  config.cast_rules = "linear=fp32";
  EXPECT_FALSE(is_fused(config));
  config.cast_rules = "linear=fp32, mezzo::gelu_linear=fp32";
  EXPECT_THROW_WITH(check_config(config), "but name mezzo::gelu_linear and linear");
}

TEST(RunConfig, AnotherPrecisionLeavesOutWhatItDoesNotTake) {
  RunConfig config;
  config.precision = "fp8";
  config.fp8_scaling = "delayed";
  config.clip = 0;
  config.release_gradients = true;
  for (const char* precision : {"fp32", "amp-fp16", "amp-bf16", "lean", "fp8", "pure-bf16"})
    EXPECT_NO_THROW(check_config(in_precision(config, precision))) << precision;
  EXPECT_TRUE(in_precision(config, "lean").release_gradients);
}

TEST(RunConfig, TheCommandLineWinsOverTheFileAndTheFileOverTheDefault) {
  testing::TempDir dir;
  testing::write_file(dir / "run.toml", "steps = 5\nbatch = 6\n");
  const RunConfig config = resolve({{"config", dir / "run.toml"}, {"steps", "7"}});
  EXPECT_EQ(config.steps, 7);
  EXPECT_EQ(config.batch, 6);
  EXPECT_EQ(config.accumulate, RunConfig{}.accumulate);
}

TEST(RunConfig, KeysMayBeWrittenWithUnderscores) {
  EXPECT_EQ(config_from_toml("weight_decay = 0.5", "x").weight_decay, 0.5);
  EXPECT_EQ(config_from_toml("weight-decay = 0.5", "x").weight_decay, 0.5);
  EXPECT_THROW_WITH(config_from_toml("weight-decay = 0.5\nweight_decay = 0.5", "x"),
                    "weight-decay is given twice");
}

TEST(RunConfig, AWholeNumberServesWhereANumberIsWanted) {
  EXPECT_EQ(config_from_toml("clip = 2", "x").clip, 2.0);
  EXPECT_THROW_WITH(config_from_toml("steps = 2.0", "x"), "steps must be an integer, but is 2");
}

TEST(RunConfig, WhatIsNotGivenFollowsFromTheRest) {
  const RunConfig config = resolve({{"lr", "0.5"}, {"precision", "fp32"}});
  EXPECT_EQ(config.min_lr, 0.05);
  EXPECT_FALSE(config.layers.has_value()) << "the preset's";
}

TEST(RunConfig, LossScaleTakesWordsAndNumbers) {
  EXPECT_EQ(resolve({{"loss-scale", "1024"}}).static_loss_scale(), 1024.0);
  EXPECT_EQ(config_from_toml("loss-scale = 0.5", "x").static_loss_scale(), 0.5);
  EXPECT_EQ(resolve({{"loss-scale", "dynamic"}}).static_loss_scale(), std::nullopt);
  EXPECT_THROW_WITH(resolve({{"loss-scale", "0"}}), "loss-scale must be auto, none, dynamic or");
  EXPECT_THROW_WITH(resolve({{"loss-scale", "inf"}}), "but is the string \"inf\"");
  EXPECT_THROW_WITH(resolve({{"loss-scale", "dynamc"}}), "did you mean 'dynamic'?");
}

TEST(RunConfig, AWrongTypeNamesTheKeyTheValueAndTheLine) {
  EXPECT_THROW_WITH(config_from_toml("\n\nsteps = \"many\"", "run.toml"),
                    "steps must be an integer, but is the string \"many\" (run.toml, line 3)");
  EXPECT_THROW_WITH(config_from_toml("model = 3", "x"), "model must be a string, but is 3");
  EXPECT_THROW_WITH(config_from_toml("bias = 1", "x"), "bias must be true or false, but is 1");
  EXPECT_THROW_WITH(config_from_toml("lr = true", "x"), "lr must be a number, but is true");
  EXPECT_THROW_WITH(config_from_toml("lr = [1]", "x"),
                    "lr must be a single value, but is an array");
  EXPECT_THROW_WITH(config_from_toml("[lr]", "x"), "lr must be a single value, but is a table");
  EXPECT_THROW_WITH(config_from_toml("seed = 2020-01-01", "x"), "but is a date or time");
}

TEST(RunConfig, AnUnknownKeyOffersTheNearest) {
  EXPECT_THROW_WITH(config_from_toml("warmpu = 3", "run.toml"),
                    "warmpu is not an option, did you mean 'warmup'? (run.toml, line 1)");
  EXPECT_THROW_WITH(config_from_toml("[optimizer]\nlr = 1", "x"), "optimizer is not an option");
}

TEST(RunConfig, TextThatIsNotTomlNamesTheLine) {
  EXPECT_THROW_WITH(config_from_toml("steps = 3\nbatch = = 4", "run.toml"),
                    "run.toml must be TOML, but line 2 is not");
}

// Each of these was undefined behaviour or an abort in the parser itself (mezzo/base/toml.h).
TEST(RunConfig, LettersBeyondAsciiOutsideAStringAreRefusedLikeAnyOther) {
  EXPECT_THROW_WITH(config_from_toml("größe = 3", "x"), "x must be TOML, but line 1 is not");
  EXPECT_THROW_WITH(config_from_toml("steps = 3 \xef\xb8\x8f", "x"), "must be TOML");
  EXPECT_THROW_WITH(config_from_toml("\xe3\x81\x82 = 1", "x"), "must be TOML");
  EXPECT_THROW_WITH(config_from_toml("a.\xc3\xbc = 1", "x"), "must be TOML");
  EXPECT_EQ(config_from_toml("# gr\xc3\xb6\xc3\x9f"
                             "er \xef\xb8\x8f\nsteps = 3",
                             "x")
                .steps,
            3);
}

TEST(RunConfig, AnImpossibleValueIsRefusedWithWhatIsAccepted) {
  const auto refused = [](const std::string& name, const std::string& value) -> std::string {
    try {
      resolve({{name, value}});
    } catch (const UsageError& error) {
      return error.what();
    }
    return "accepted";
  };
  EXPECT_THAT(refused("steps", "-5"),
              HasSubstr("steps must be from 1 to 1000000000000, but is -5"));
  EXPECT_THAT(refused("steps", "0"), HasSubstr("(--steps)"));
  EXPECT_THAT(refused("steps", "many"),
              HasSubstr("must be an integer, but is the string \"many\""));
  EXPECT_THAT(refused("steps", "3x"), HasSubstr("must be an integer"));
  EXPECT_THAT(refused("steps", ""), HasSubstr("must be an integer"));
  EXPECT_THAT(refused("steps", "99999999999999999999"),
              HasSubstr("steps must be from 1 to 1000000000000, but 99999999999999999999 is out of "
                        "range (--steps)"));
  EXPECT_THAT(refused("lr", "1e400"), HasSubstr("but 1e400 is out of range"));
  EXPECT_THAT(refused("lr", "nan"), HasSubstr("lr must be above 0 and finite, but is nan"));
  EXPECT_THAT(refused("lr", "0"), HasSubstr("but is 0"));
  EXPECT_THAT(refused("clip", "inf"), HasSubstr("clip must be 0 or above and finite"));
  EXPECT_THAT(refused("beta2", "1"), HasSubstr("beta2 must be at least 0 and below 1"));
  EXPECT_THAT(refused("dropout", "nan"), HasSubstr("dropout must be at least 0"));
  EXPECT_THAT(refused("bias", "yes"), HasSubstr("bias must be true or false"));
  EXPECT_THAT(refused("seed", "-1"), HasSubstr("seed must be from 0"));
  EXPECT_THAT(refused("precision", "amp-bf61"),
              HasSubstr("one of fp32, amp-fp16, amp-bf16, lean, fp8, pure-fp16, pure-bf16, but is "
                        "the string \"amp-bf61\", did you mean 'amp-bf16'? (--precision)"));
  EXPECT_THAT(refused("out", "a\nb"), HasSubstr("out must be a path"));
  EXPECT_THAT(refused("out", "\xff"), HasSubstr("out must be a path in UTF-8"));
  EXPECT_THAT(refused("min-lr", "1"), HasSubstr("min-lr must be at most lr (0.0003), but is 1"));
  EXPECT_THAT(refused("release-gradients", "true"),
              HasSubstr("release-gradients must be false here: [gradient release] clipping must be "
                        "off, but is on"));
  EXPECT_THAT(refused("stepz", "1"), HasSubstr("did you mean 'steps'?"));
}

TEST(RunConfig, GradientsAreReleasedOnlyWhereTheRunCanDoWithoutThem) {
  std::map<std::string, std::string> given = {
      {"release-gradients", "true"}, {"clip", "0"}, {"precision", "lean"}};
  EXPECT_TRUE(resolve(given).release_gradients);
  const auto with = [&](const std::string& name, const std::string& value) {
    auto changed = given;
    changed[name] = value;
    return changed;
  };
  EXPECT_THROW_WITH(resolve(with("clip", "1")), "(--clip 1, --accumulate 1, --loss-scale auto");
  EXPECT_THROW_WITH(resolve(with("accumulate", "2")), "a step must be of one backward pass");
  EXPECT_THROW_WITH(resolve(with("loss-scale", "8")), "the loss must not be scaled");
  EXPECT_THROW_WITH(resolve(with("precision", "amp-fp16")), "the loss must not be scaled");
  EXPECT_THROW_WITH(resolve(with("precision", "fp32")), "Hint: --precision amp-bf16, lean or fp8");
}

TEST(RunConfig, Fp8ScalingIsForAModeWithFp8ProductsAlone) {
  EXPECT_EQ(resolve({{"precision", "fp8"}, {"fp8-scaling", "delayed"}}).fp8_scaling, "delayed");
  EXPECT_THROW_WITH(resolve({{"precision", "lean"}, {"fp8-scaling", "delayed"}}),
                    "fp8-scaling must be current in lean, which multiplies nothing in FP8, but is "
                    "delayed. Hint: --precision fp8");
  EXPECT_THROW_WITH(resolve({{"precision", "fp8"}, {"fp8-scaling", "delayd"}}),
                    "did you mean 'delayed'");
}

TEST(RunConfig, ARetryNeedsAScaleThatMoves) {
  EXPECT_NO_THROW(resolve({{"on-overflow", "retry"}, {"loss-scale", "dynamic"}}));
  EXPECT_THROW_WITH(resolve({{"on-overflow", "retry"}, {"loss-scale", "1e30"}}),
                    "on-overflow must be skip where loss-scale is a number (1e30)");
}

TEST(RunConfig, AnotherPrecisionForgetsWhatOnlyFp8Takes) {
  const RunConfig fp8 = resolve({{"precision", "fp8"}, {"fp8-scaling", "delayed"}});
  EXPECT_EQ(in_precision(fp8, "fp8"), fp8);
  const RunConfig lean = in_precision(fp8, "lean");
  EXPECT_EQ(lean.precision, "lean");
  EXPECT_NO_THROW(check_config(lean));
}

TEST(RunConfig, AFileThatIsNotThereIsRefused) {
  testing::TempDir dir;
  EXPECT_THROW_WITH(resolve({{"config", dir / "gone.toml"}}), "gone.toml is not there (--config)");
  EXPECT_THROW_WITH(resolve({{"config", dir.path()}}), "is something else");
  EXPECT_THROW_WITH(resolve({{"data", dir / "gone.txt"}}), "gone.txt is not");
  testing::write_file(dir / "text", "once");
  EXPECT_EQ(resolve({{"data", dir / "text"}}).data, (dir / "text").string());
}

TEST(RunConfig, AFileMayNotNameAFileOrAResume) {
  EXPECT_THROW_WITH(config_from_toml("config = \"x\"", "x"), "only be given on the command line");
  EXPECT_THROW_WITH(config_from_toml("resume = \"x\"", "x"), "only be given on the command line");
}

/// The folder of a run that was started with these.
std::string run_folder(const testing::TempDir& dir, std::map<std::string, std::string> values) {
  testing::write_file(dir / "config.toml", to_toml(resolve(std::move(values))));
  return dir.path();
}

TEST(RunConfigResume, TakesTheConfigurationOfTheRun) {
  testing::TempDir dir;
  const std::string run = run_folder(dir, {{"lr", "0.5"}, {"layers", "2"}, {"out", "elsewhere"}});
  const RunConfig config = resolve({{"resume", run}});
  EXPECT_EQ(config.lr, 0.5);
  EXPECT_EQ(config.min_lr, 0.05);
  EXPECT_EQ(config.layers, 2);
  EXPECT_EQ(config.resume, run);
  EXPECT_EQ(config.out, run) << "also where the folder was moved";
}

TEST(RunConfigResume, ExactlyTheDocumentedOptionsMayChange) {
  testing::TempDir dir;
  const std::string run = run_folder(dir, {{"clip", "0"}});  // gradients can be released
  const std::set<std::string> may_change = {
      "data",     "steps",       "checkpoint-every", "eval-every",       "eval-batches",
      "threads",  "on-overflow", "sample-tokens",    "keep-checkpoints", "recompute",
      "diagnose", "watch",       "release-gradients"};
  RunConfig other = unusual_config();
  other.data = dir.path();
  for (const Option& option : options()) {
    if (!option.is_stored) continue;
    const std::map<std::string, std::string> given = {
        {"resume", run}, {option.name, plain(get(other, option).value())}};
    if (may_change.count(option.name)) {
      EXPECT_EQ(get(resolve(given), option), get(other, option)) << option.name;
    } else {
      EXPECT_THROW_WITH(resolve(given), option.name + " must stay");
    }
  }
}

TEST(RunConfigResume, ARefusalNamesBothValuesAndWhatMayChange) {
  testing::TempDir dir;
  const std::string run = run_folder(dir, {});
  EXPECT_THROW_WITH(
      resolve({{"resume", run}, {"lr", "0.001"}}),
      "lr must stay 0.0003 when a run is resumed, but is 0.001 (--lr). What may "
      "change: data, on-overflow, diagnose, watch, recompute, release-gradients, steps, ");
  EXPECT_THROW_WITH(resolve({{"resume", run}, {"width", "64"}}),
                    "width must stay as the preset has it");
}

TEST(RunConfigResume, GoesOnWithDataThatHasBeenMoved) {
  testing::TempDir dir;
  testing::write_file(dir / "old.txt", "text");
  const std::string run = run_folder(dir, {{"data", dir / "old.txt"}});
  std::filesystem::rename(dir / "old.txt", dir / "new.txt");
  EXPECT_THROW_WITH(resolve({{"resume", run}}), "Hint: --data PATH, if it has been moved");
  EXPECT_EQ(resolve({{"resume", run}, {"data", dir / "new.txt"}}).data, (dir / "new.txt").string());
}

TEST(RunConfigResume, SayingAgainWhatTheRunHasIsFine) {
  testing::TempDir dir;
  const std::string run = run_folder(dir, {{"lr", "0.001"}});
  EXPECT_NO_THROW(resolve({{"resume", run}, {"lr", "1e-3"}, {"out", run}}));
}

TEST(RunConfigResume, NeedsAFolderWithAConfigAndNoOtherFile) {
  testing::TempDir dir;
  EXPECT_THROW_WITH(resolve({{"resume", dir.path()}}), "has no config.toml (--resume)");
  const std::string run = run_folder(dir, {});
  EXPECT_THROW_WITH(resolve({{"resume", run}, {"config", "x.toml"}}), "config must not be given");
}

TEST(RunConfig, TheCommandLineTakesEveryOption) {
  for (const Option& option : options()) {
    CLI::App app;
    GivenOptions given;
    add_options(app, given);
    app.parse("--" + option.name + " -3");
    EXPECT_EQ(given.values, (std::map<std::string, std::string>{{option.name, "-3"}}));
  }
}

TEST(RunConfig, TheHelpShowsEveryOptionWithItsDefault) {
  CLI::App app;
  GivenOptions given;
  add_options(app, given);
  const std::string help = app.help();
  for (const std::string& name : option_names()) EXPECT_THAT(help, HasSubstr("--" + name));
  EXPECT_THAT(help, HasSubstr("--steps (1000)"));
  EXPECT_THAT(help, HasSubstr("--min-lr (lr / 10)"));
}

// The words stand in the table, and where they are understood.
TEST(RunConfig, EachWordThatAnOptionTakesIsUnderstood) {
  const auto words = [](const char* name) { return find_option(name)->check.choices; };
  for (const std::string& word : words("model")) EXPECT_NO_THROW(models::model_preset(word));
  for (const std::string& word : words("precision")) EXPECT_NO_THROW(precision_mode(word));
  for (const std::string& word : words("recompute")) EXPECT_NO_THROW(models::recompute_level(word));
  for (const std::string& word : words("schedule")) EXPECT_NO_THROW(optim::schedule_kind(word));
  for (const std::string& word : words("fp8-scaling"))
    EXPECT_NO_THROW(fp8_scaling_of(precision_mode("fp8"), word));
  for (const std::string& word : words("cast-policy")) EXPECT_NO_THROW(CastPolicy::preset(word));
}

TEST(RunConfig, TheSettingsAreWhatIsSet) {
  RunConfig config;
  config.layers = 3;
  std::map<std::string, std::string> settings;
  for (const auto& [name, value] : settings_of(config)) settings[name] = value;
  EXPECT_EQ(settings.at("layers"), "3");
  EXPECT_EQ(settings.at("lr"), "0.0003");
  EXPECT_EQ(settings.count("heads"), 0u);
  EXPECT_EQ(settings.count("resume"), 0u);
}

TEST(RunConfig, TheConfigurationPageHoldsTheTableAsItIs) {
  const std::string page = testing::read_file(MEZZO_DOCS "/configuration.md");
  const std::string begin = "<!-- options: begin -->\n", end = "<!-- options: end -->";
  ASSERT_THAT(page, HasSubstr(begin));
  ASSERT_THAT(page, HasSubstr(end));
  const size_t from = page.find(begin) + begin.size();
  EXPECT_EQ(page.substr(from, page.find(end) - from), options_markdown())
      << "put this between the two marks of docs/configuration.md";
}

}  // namespace
}  // namespace mezzo::train
