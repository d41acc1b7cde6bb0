#include "mezzo/train/initial_weights.h"

#include <tuple>

#include "mezzo/amp/precision.h"
#include "mezzo/base/check.h"
#include "mezzo/data/train_tokenizer.h"
#include "mezzo/models/hf_checkpoint.h"
#include "mezzo/models/model_config.h"
#include "mezzo/train/export_model.h"
#include "mezzo/train/hf_folder.h"
#include "mezzo/train/run_parts.h"
#include "mezzo/train/stored_model.h"
#include "mezzo/train/trainer.h"
#include "tests/close.h"
#include "tests/models/config_fields.h"
#include "tests/models/llama_tiny.h"
#include "tests/testing.h"
#include "tests/train/tiny_run.h"

namespace mezzo::train {
namespace {

namespace fs = std::filesystem;
using mezzo::testing::TempDir;
using mezzo::testing::write_file;
using models::Family;

const std::atomic<bool> kNeverStop{false};

/// A run that is over, `folder`, and the configuration of one that starts from its weights.
struct Source {
  explicit Source(Family family = Family::kGPT2) : run(dir.path()), folder(dir / "source") {
    if (family == Family::kLlama) {
      run.use_llama();
      run.config.norm_eps = 1e-6;
      run.config.rope_base = 5e5;
    }
    report::Sinks sinks;
    val_loss = Trainer(run.config, folder, run.tokens, sinks).run(kNeverStop).val_loss.value();
    write_file(folder / "config.toml", to_toml(run.config));
    config = run.config;
    config.init = folder.string();
    config.seed = 99;
  }

  TempDir dir;
  TinyRun run;
  RunConfig config;
  fs::path folder;
  double val_loss = 0;
};

/// The weights that a run of this configuration begins with.
TensorMap first_weights(const Source& source, const RunConfig& config) {
  report::Sinks sinks;
  const Trainer trainer(config, source.dir / "new", source.run.tokens, sinks);
  EXPECT_EQ(trainer.step(), 0);
  return trainer.snapshot().model;
}

/// The held-out loss of the weights that a run begins with: a step at this rate moves none.
double first_val_loss(const Source& source, RunConfig config) {
  config.steps = 1;
  config.lr = 1e-30;
  report::Sinks sinks;
  Trainer trainer(config, source.dir / "new", source.run.tokens, sinks);
  return trainer.run(kNeverStop).val_loss.value();
}

void expect_same_bits(const TensorMap& actual, const TensorMap& expected) {
  ASSERT_EQ(actual.size(), expected.size());
  for (const auto& [name, tensor] : expected) {
    SCOPED_TRACE(name);
    EXPECT_BIT_EQUAL(actual.at(name), tensor);
  }
}

class InitialWeights : public ::testing::TestWithParam<std::tuple<const char*, Family>> {};

TEST_P(InitialWeights, AreThoseOfTheModelInEveryMode) {
  const auto& [precision, family] = GetParam();
  Source source(family);
  source.config.precision = precision;
  const at::ScalarType dtype = precision_mode(precision).weights;
  expect_same_bits(first_weights(source, source.config),
                   load_weights(find_model(source.folder), dtype));
}

INSTANTIATE_TEST_SUITE_P(Modes, InitialWeights,
                         ::testing::Combine(::testing::Values("fp32", "amp-fp16", "amp-bf16",
                                                              "lean", "pure-fp16", "pure-bf16"),
                                            ::testing::Values(Family::kGPT2, Family::kLlama)),
                         [](const auto& test) {
                           std::string name = std::get<0>(test.param);
                           std::erase(name, '-');
                           return name + (std::get<1>(test.param) == Family::kLlama ? "Llama" : "");
                         });

class InitialWeightsOf : public ::testing::TestWithParam<Family> {};

TEST_P(InitialWeightsOf, TheFirstHeldOutLossIsTheModels) {
  const Source source(GetParam());
  EXPECT_EQ(first_val_loss(source, source.config), source.val_loss);
}

TEST_P(InitialWeightsOf, AnExportedModelIsTheSameModel) {
  Source source(GetParam());
  const Exported exported = export_model(source.folder, (source.dir / "hf").string() + "/");
  EXPECT_FALSE(exported.has_tokenizer);
  EXPECT_EQ(exported.parameters, models::parameter_count(model_config(source.run.config)));
  source.config.init = source.dir / "hf";
  EXPECT_EQ(first_val_loss(source, source.config), source.val_loss);
  EXPECT_THROW_WITH(export_model(source.folder, source.dir / "hf"),
                    "must be a new or an empty folder, but holds files");
}

INSTANTIATE_TEST_SUITE_P(EachFamily, InitialWeightsOf,
                         ::testing::Values(Family::kGPT2, Family::kLlama), [](const auto& test) {
                           return test.param == Family::kGPT2 ? "GPT2" : "Llama";
                         });

TEST(InitialWeights, ARunThatIsResumedDoesNotNeedTheFolder) {
  Source source;
  source.config.init = "/not/there";
  report::Sinks sinks;
  EXPECT_THROW_WITH(Trainer(source.config, source.dir / "new", source.run.tokens, sinks),
                    "/not/there must be a run's folder");
  source.config.resume = source.folder;
  EXPECT_NO_THROW(Trainer(source.config, source.folder, source.run.tokens, sinks));
}

TEST(InitialWeights, AShorterContextTakesTheFirstPositions) {
  Source source;
  source.config.context = 8;
  const TensorMap whole = load_weights(find_model(source.folder), at::kFloat);
  const TensorMap cut = first_weights(source, source.config);
  EXPECT_BIT_EQUAL(cut.at("wpe.weight"), whole.at("wpe.weight").narrow(0, 0, 8).contiguous());
  EXPECT_BIT_EQUAL(cut.at("wte.weight"), whole.at("wte.weight"));
}

// It has no table of positions, and turns the first ones by the same angles.
TEST(InitialWeights, AShorterContextLeavesThoseOfALlamaAsTheyAre) {
  Source source(Family::kLlama);
  source.config.context = 8;
  expect_same_bits(first_weights(source, source.config),
                   load_weights(find_model(source.folder), at::kFloat));
}

TEST(InitialWeights, NumbersThatTheModesDtypeCannotHoldAreRefused) {
  Source source;
  TensorMap weights = load_weights(find_model(source.folder), at::kFloat);
  weights.at("h.0.ln_1.weight")[3] = 1e6;
  save_hf_folder(source.dir / "hf", model_config(source.run.config), weights, std::nullopt);
  source.config.init = source.dir / "hf";
  EXPECT_EQ(initial_weights(source.config, at::kFloat).size(), weights.size());
  EXPECT_THROW_WITH(initial_weights(source.config, at::kHalf),
                    "must be finite in fp16, but 1 of its numbers are not");
}

TEST(InitialWeights, AnotherShapeThanTheFoldersIsRefusedByTheWeights) {
  Source source;
  source.config.layers = 2;
  report::Sinks sinks;
  EXPECT_THROW_WITH(Trainer(source.config, source.dir / "new", source.run.tokens, sinks),
                    source.folder.string());
}

RunConfig resolved(std::map<std::string, std::string> values) {
  return resolve_config({std::move(values)});
}

TEST(InitialShape, IsThatOfTheRun) {
  const Source source;
  const RunConfig config = resolved({{"init", source.folder}, {"dropout", "0.2"}});
  EXPECT_EQ(config.layers, 1);
  EXPECT_EQ(config.heads, 2);
  EXPECT_EQ(config.width, 16);
  EXPECT_EQ(config.context, 16);
  EXPECT_EQ(config.vocab_size, 64);
  EXPECT_EQ(config.bias, true);
  EXPECT_EQ(config.dropout, 0.2);
  EXPECT_EQ(config.lr, RunConfig().lr) << "all else is the new run's";
  const fs::path checkpoint = find_model(source.folder).weights;
  EXPECT_EQ(resolved({{"init", checkpoint}}).width, 16);
}

TEST(InitialShape, IsThatOfAHuggingFaceFolder) {
  const Source source;
  export_model(source.folder, source.dir / "hf");
  const RunConfig config = resolved({{"init", source.dir / "hf"}, {"context", "8"}});
  EXPECT_EQ(config.layers, 1);
  EXPECT_EQ(config.context, 8);
  EXPECT_EQ(config.vocab_size, 64);
}

TEST(InitialShape, OfALlamaIsAllOfThatOfTheRunTheCheckpointOrTheExportedFolder) {
  const Source source(Family::kLlama);
  export_model(source.folder, source.dir / "hf");
  models::ModelConfig own = model_config(source.run.config);
  own.dropout = 0;  // is the new run's
  const fs::path checkpoint = find_model(source.folder).weights;
  for (const fs::path& init : {source.folder, checkpoint, source.dir / "hf"}) {
    EXPECT_EQ(models::fields(model_config(resolved({{"init", init}}))), models::fields(own))
        << init;
    models::ModelConfig shorter = own;
    shorter.context = 8;
    const RunConfig config = resolved({{"init", init}, {"context", "8"}});
    EXPECT_EQ(models::fields(model_config(config)), models::fields(shorter)) << init;
  }
}

/// A Hugging Face folder of a model of this shape, as far as that is read without its weights.
fs::path folder_of(const TempDir& dir, const models::ModelConfig& shape) {
  write_file(dir / "config.json", models::to_hf_config(shape, std::nullopt));
  write_file(dir / "model.safetensors", "");
  return dir.path();
}

TEST(InitialShape, ThatIsNoPresetsIsKeptUnderTheNameOfTheFamilysSmallest) {
  const TempDir dir;
  const models::ModelConfig shape = models::tiny_llama_config(/*is_tied=*/false);
  const RunConfig config = resolved({{"init", folder_of(dir, shape)}});
  EXPECT_EQ(config.model, "llama-nano");
  EXPECT_EQ(models::fields(model_config(config)), models::fields(shape));
}

TEST(InitialShape, OfAPresetsBlocksIsKeptUnderItsName) {
  for (const char* name : {"llama-nano", "smollm-135m", "tinyllama-1.1b", "llama-3.2-1b"}) {
    const TempDir dir;
    models::ModelConfig shape = models::model_preset(name);
    shape.context = 64;
    shape.vocab_size = 300;
    shape.tied = !shape.tied;
    shape.rope.base = 777;
    const RunConfig config = resolved({{"init", folder_of(dir, shape)}});
    EXPECT_EQ(config.model, name);
    EXPECT_EQ(models::fields(model_config(config)), models::fields(shape)) << name;
  }
}

TEST(InitialShape, ASizeThatContradictsItIsRefusedWithBothValues) {
  const Source source;
  const auto with = [&](const std::string& name, const std::string& value) {
    return resolved({{"init", source.folder}, {name, value}});
  };
  const std::string as_in = ", as in " + source.folder.string() + " (--init), but is ";
  EXPECT_THROW(with("layers", "2"), UsageError);
  EXPECT_THROW_WITH(with("layers", "2"), "layers must be 1" + as_in + "2. Hint: leave it out");
  EXPECT_THROW_WITH(with("heads", "4"), "heads must be 2" + as_in + "4");
  EXPECT_THROW_WITH(with("width", "32"), "width must be 16" + as_in + "32");
  EXPECT_THROW_WITH(with("vocab-size", "300"), "vocab-size must be 64" + as_in + "300");
  EXPECT_THROW_WITH(with("bias", "false"), "bias must be true" + as_in + "false");
  EXPECT_THROW_WITH(with("context", "17"), "context must be at most 16" + as_in + "17");
  for (const char* model : {"nano", "gpt2"})
    EXPECT_THROW_WITH(with("model", model), "model must be left out where init gives its shape");
  EXPECT_EQ(with("layers", "1").layers, 1);
}

TEST(InitialShape, AnOptionThatContradictsALlamasIsRefusedWithBothValues) {
  const Source source(Family::kLlama);
  const auto with = [&](const std::string& name, const std::string& value) {
    return resolved({{"init", source.folder}, {name, value}});
  };
  const std::string as_in = ", as in " + source.folder.string() + " (--init), but is ";
  EXPECT_THROW(with("kv-heads", "2"), UsageError);
  EXPECT_THROW_WITH(with("kv-heads", "2"), "kv-heads must be 1" + as_in + "2. Hint: leave it out");
  EXPECT_THROW_WITH(with("mlp-width", "48"), "mlp-width must be 32" + as_in + "48");
  EXPECT_THROW_WITH(with("tied", "true"), "tied must be false" + as_in + "true");
  EXPECT_THROW_WITH(with("norm-eps", "1e-5"), "norm-eps must be 1e-06" + as_in + "1e-05");
  EXPECT_THROW_WITH(with("rope-base", "1e4"), "rope-base must be 500000" + as_in + "10000");
  EXPECT_THROW_WITH(with("rope-scaling", "none"), "rope-scaling must be 4,1,4,8" + as_in + "none");
  EXPECT_THROW_WITH(with("rope-scaling", "8,1,4,8"),
                    "rope-scaling must be 4,1,4,8" + as_in + "8,1,4,8");
  EXPECT_THROW_WITH(with("bias", "true"), "bias must be false" + as_in + "true");
  EXPECT_THROW_WITH(with("layers", "2"), "layers must be 1" + as_in + "2");
  EXPECT_THROW_WITH(with("vocab-size", "300"), "vocab-size must be 64" + as_in + "300");
  EXPECT_THROW_WITH(with("context", "17"), "context must be at most 16" + as_in + "17");
  for (const auto& [name, value] : {std::pair("kv-heads", "1"),
                                    {"mlp-width", "32"},
                                    {"tied", "false"},
                                    {"norm-eps", "1e-6"},
                                    {"rope-base", "5e5"},
                                    {"rope-scaling", "4,1,4,8"},
                                    {"bias", "false"}})
    EXPECT_NO_THROW(with(name, value)) << name;
}

// llama-nano and nano have as many layers and heads, of the same width.
TEST(InitialShape, AModelOfTheOtherFamilyIsRefused) {
  const TempDir llama_dir, gpt2_dir;
  const std::string llama = folder_of(llama_dir, models::model_preset("llama-nano")),
                    gpt2 = folder_of(gpt2_dir, models::model_preset("nano"));
  const auto with = [](const std::string& init, const std::string& model) {
    return resolved({{"init", init}, {"model", model}});
  };
  EXPECT_THROW(with(llama, "nano"), UsageError);
  EXPECT_THROW_WITH(with(llama, "nano"),
                    "model must be left out where init gives its shape, a Llama of 4 layers, 4 "
                    "heads and width 256 in " +
                        llama + ", but is nano, a GPT-2 of 4, 4 and 256");
  EXPECT_THROW_WITH(with(llama, "gpt2"), "but is gpt2, a GPT-2 of 12, 12 and 768");
  EXPECT_THROW_WITH(with(llama, "smollm-135m"), "but is smollm-135m, a Llama of 30, 9 and 576");
  EXPECT_THROW_WITH(with(gpt2, "llama-nano"), "but is llama-nano, a Llama of 4, 4 and 256");
  EXPECT_EQ(with(llama, "llama-nano").model, "llama-nano");
  EXPECT_EQ(with(gpt2, "nano").model, "nano");
}

TEST(InitialShape, TheSameRunCanBeBegunAgainFromItsConfiguration) {
  for (const Family family : {Family::kGPT2, Family::kLlama}) {
    const Source source(family);
    const RunConfig config = resolved({{"init", source.folder}});
    write_file(source.dir / "again.toml", to_toml(config));
    RunConfig again = resolved({{"config", source.dir / "again.toml"}});
    again.config = "";
    EXPECT_EQ(again, config);
  }
}

TEST(InitialShape, OfALlamaIsInTheRunsOwnConfigurationOnceItHasBegun) {
  const TempDir run, hf;
  const models::ModelConfig shape = models::tiny_llama_config(/*is_tied=*/false);
  const RunConfig begun = resolved({{"init", folder_of(hf, shape)}});
  write_file(run / "config.toml", to_toml(begun));
  fs::remove(hf / "config.json");
  EXPECT_THROW_WITH(resolved({{"init", hf.path()}}), "but has none of their files");
  const RunConfig resumed = resolved({{"resume", run.path()}});
  EXPECT_EQ(models::fields(model_config(resumed)), models::fields(shape));
}

TEST(InitialShape, AFolderThatHoldsNoModelIsRefused) {
  const TempDir dir;
  EXPECT_THROW(resolved({{"init", dir.path()}}), UsageError);
  EXPECT_THROW_WITH(resolved({{"init", dir.path()}}), "but has none of their files");
  EXPECT_THROW_WITH(resolved({{"init", dir / "gone"}}), "but is not there");
  EXPECT_THROW_WITH(resolved({{"init", ""}}), "init must not be empty");
  write_file(dir / "config.json", R"({"model_type": "bert"})");
  EXPECT_THROW_WITH(resolved({{"init", dir.path()}}),
                    "model_type must be \"gpt2\" or \"llama\", but is \"bert\"");
}

data::Tokenizer some_tokenizer(const std::string& text) {
  return data::train_tokenizer(std::span(&text, 1), {.vocab_size = 260});
}

TEST(InitialTokenizer, ATextNeedsIt) {
  const Source source;
  EXPECT_THROW_WITH(initial_tokenizer_for_text(source.config),
                    "but no tokenizer.json is there. Hint: put it there, or");
  RunConfig without = source.config;
  without.init = "";
  EXPECT_FALSE(initial_tokenizer_for_text(without).has_value());
}

TEST(InitialTokenizer, OneWithMoreTokensThanTheModelIsRefused) {
  const Source source;
  some_tokenizer("one two").save(source.folder / "tokenizer.json");
  EXPECT_THROW_WITH(initial_tokenizer(source.config), "at most the 64 tokens that the model knows");
}

TEST(InitialTokenizer, TokensOfAnotherAreRefused) {
  Source source;
  source.run.config.vocab_size = source.config.vocab_size = 300;
  write_file(source.folder / "config.toml", to_toml(source.run.config));
  const data::Tokenizer own = some_tokenizer("abab"), other = some_tokenizer("cdcd");
  EXPECT_FALSE(tokenizer_of_tokens(source.config, source.run.tokens, std::nullopt).has_value());
  own.save(source.folder / "tokenizer.json");
  const auto used = [&](std::optional<data::Tokenizer> beside) {
    return tokenizer_of_tokens(source.config, source.run.tokens, std::move(beside));
  };
  EXPECT_EQ(used(std::nullopt)->hash(), own.hash()) << "the tokens do not say whose they are";
  EXPECT_EQ(used(own)->hash(), own.hash());
  EXPECT_THROW_WITH(used(other), "tokenizer (--init), but was packed with another");
}

TEST(InitialTokenizer, MoreTokensThanTheModelKnowsAreRefused) {
  Source source;
  source.config.vocab_size = 60;  // the tokens are 61
  EXPECT_THROW_WITH(tokenizer_of_tokens(source.config, source.run.tokens, std::nullopt),
                    "which knows 60, but has 61 different ones");
}

TEST(InitialTokenizer, OnceTheRunHasBegunItIsTheRunsOwn) {
  Source source;
  const data::Tokenizer own = some_tokenizer("abab");
  fs::create_directory(source.dir / "run");
  own.save(source.dir / "run/tokenizer.json");
  source.config.vocab_size = 300;
  source.config.init = "/not/there";
  source.config.resume = source.config.out = source.dir / "run";
  EXPECT_EQ(initial_tokenizer_for_text(source.config)->hash(), own.hash());
}

}  // namespace
}  // namespace mezzo::train
