#include "mezzo/train/initial_weights.h"

#include "mezzo/base/check.h"
#include "mezzo/base/float_format.h"
#include "mezzo/kernels/tensor_stats/tensor_stats.h"
#include "mezzo/models/gpt2.h"
#include "mezzo/train/run_folder.h"
#include "mezzo/train/run_options.h"
#include "mezzo/train/run_parts.h"
#include "mezzo/train/stored_model.h"

namespace mezzo::train {
namespace {

namespace fs = std::filesystem;

/// `shape`: of the model in config.init. The context may be smaller.
void check_same_shape(const RunConfig& config, const RunConfig& shape) {
  for (const Option* option : shape_options()) {
    const std::optional<Value> given = get(config, *option), own = get(shape, *option);
    MEZZO_CHECK_USAGE(!given || given == own || option->name == "context", "config",
                      "{} must be {}, as in {} (--init), but is {}. Hint: leave it out",
                      option->name, own ? plain(*own) : "left out", config.init, plain(*given));
  }
}

void check_named_model(const RunConfig& config, const models::ModelConfig& own) {
  const models::ModelConfig named = model_config(config);
  MEZZO_CHECK_USAGE(
      named.family == own.family && named.layers == own.layers && named.heads == own.heads &&
          named.width == own.width,
      "config",
      "model must be left out where init gives its shape, a {} of {} layers, {} heads "
      "and width {} in {}, but is {}, a {} of {}, {} and {}",
      models::name_of(own.family), own.layers, own.heads, own.width, config.init, config.model,
      models::name_of(named.family), named.layers, named.heads, named.width);
}

}  // namespace

bool starts_from_init(const RunConfig& config) {
  return !config.init.empty() && config.resume.empty();
}

void take_initial_shape(RunConfig& config, bool names_model) {
  const StoredModel source = find_model(config.init);
  const models::ModelConfig own = model_config(source.config);
  RunConfig shaped;
  set_shape(shaped, own);
  check_same_shape(config, shaped);
  MEZZO_CHECK_USAGE(config.context.value_or(1) <= own.context, "config",
                    "context must be at most {}, as in {} (--init), but is {}", own.context,
                    config.init, *config.context);
  if (names_model) check_named_model(config, own);
  config.model = source.config.model;
  models::ModelConfig shape = own;
  shape.context = config.context.value_or(own.context);
  set_shape(config, shape);
}

TensorMap initial_weights(const RunConfig& config, at::ScalarType dtype) {
  TensorMap weights = load_weights(find_model(config.init), dtype);
  const models::ModelConfig shape = model_config(config);
  if (shape.family == models::Family::kGPT2) models::cut_positions(weights, shape.context);
  for (const auto& [name, weight] : weights) {
    const int64_t bad = kernels::tensor_stats(weight).non_finite();
    MEZZO_CHECK(bad == 0, "init", "{} of {} must be finite in {}, but {} of its numbers are not",
                name, config.init, float_format(dtype).name, bad);
  }
  return weights;
}

std::optional<data::Tokenizer> initial_tokenizer(const RunConfig& config) {
  if (config.init.empty()) return std::nullopt;
  if (starts_from_init(config)) return load_tokenizer(find_model(config.init));
  return load_tokenizer({config, {}, fs::path(config.out) / kTokenizerFile});
}

std::optional<data::Tokenizer> initial_tokenizer_for_text(const RunConfig& config) {
  std::optional<data::Tokenizer> tokenizer = initial_tokenizer(config);
  MEZZO_CHECK_USAGE(
      config.init.empty() || tokenizer, "train",
      "text must be packed with the tokenizer that made the tokens of {}, but no tokenizer.json is "
      "there. Hint: put it there, or give its tokens to --data",
      starts_from_init(config) ? config.init : config.out);
  return tokenizer;
}

std::optional<data::Tokenizer> tokenizer_of_tokens(const RunConfig& config,
                                                   const data::TokenFile& tokens,
                                                   std::optional<data::Tokenizer> own) {
  const int64_t known = model_config(config).vocab_size;
  MEZZO_CHECK_USAGE(
      config.init.empty() || tokens.vocab_size() <= known, "train",
      "{} must hold tokens of {} (--init), which knows {}, but has {} different ones. "
      "Hint: give the text to --data",
      config.data, config.init, known, tokens.vocab_size());
  std::optional<data::Tokenizer> initial = initial_tokenizer(config);
  if (!initial) return own;
  const uint64_t hash = own ? own->hash() : tokens.vocab_hash().value_or(initial->hash());
  MEZZO_CHECK_USAGE(hash == initial->hash(), "train",
                    "{} must hold tokens of {}'s tokenizer (--init), but was packed with another: "
                    "hash {:016x}, not {:016x}. Hint: give the text to --data",
                    config.data, config.init, hash, initial->hash());
  return own ? own : initial;
}

}  // namespace mezzo::train
