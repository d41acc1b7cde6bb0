#include "mezzo/train/run.h"

#include <cmath>
#include <cstdlib>

#include <fmt/format.h>
#include <pwd.h>
#include <unistd.h>

#include "mezzo/amp/autocast.h"
#include "mezzo/base/atomic_file.h"
#include "mezzo/base/check.h"
#include "mezzo/data/packed_data.h"
#include "mezzo/data/utf8.h"
#include "mezzo/models/generate.h"
#include "mezzo/models/make_model.h"
#include "mezzo/report/metrics_file.h"
#include "mezzo/report/report_file.h"
#include "mezzo/report/run_files.h"
#include "mezzo/report/summary_file.h"
#include "mezzo/report/tensorboard.h"
#include "mezzo/train/initial_weights.h"
#include "mezzo/train/machine.h"
#include "mezzo/train/run_folder.h"
#include "mezzo/train/run_parts.h"
#include "mezzo/train/stored_model.h"
#include "mezzo/train/trainer.h"

namespace mezzo::train {
namespace {

namespace fs = std::filesystem;

fs::path default_corpus() {
  const fs::path corpus = MEZZO_DEFAULT_CORPUS;
  MEZZO_CHECK_USAGE(fs::is_directory(corpus), "train",
                    "the default corpus, the Python sources in {}, is not there. Hint: --data PATH "
                    "takes any text "
                    "file, folder or token file",
                    corpus.string());
  return corpus;
}

report::ComparisonFacts page_facts(const RunConfig& config) {
  report::ComparisonFacts facts;
  facts.started = utc_now();
  facts.machine = machine_facts(config);
  facts.versions = version_facts();
  return facts;
}

void generate_sample(Trainer& trainer, const RunConfig& config, const RunData& data,
                     report::Sinks& sinks) {
  if (config.sample_tokens == 0 || !data.tokenizer.has_value()) return;
  const std::vector<int32_t> start = data.tokenizer->encode("\n");
  models::SampleOptions options;
  options.temperature = 0.8;
  options.top_k = 50;
  options.vocab_size = data.tokenizer->vocab_size();
  options.never = data.tokenizer->gaps();
  options.seed = static_cast<uint64_t>(config.seed);
  const Autocast autocast(at::Device(config.device).type(), trainer.mode().autocast,
                          trainer.mode().autocast.has_value());
  const std::vector<int64_t> tokens =
      models::sample(trainer.model(), {start.begin(), start.end()}, config.sample_tokens, options);
  const std::vector<int32_t> ids(tokens.begin(), tokens.end());
  sinks.on_note("a sample of what the model writes:\n" +
                data::to_well_formed_utf8(data.tokenizer->decode(ids)));
}

// The figures of a run that is over would be replaced by those of no step. One that was killed
// before it wrote them comes to its end here.
void check_is_not_over(const RunConfig& config, const fs::path& folder, int64_t step) {
  if (step < config.steps) return;
  const std::optional<report::Summary> summary = report::read_run_files(folder).summary;
  const bool is_over = step > config.steps || (summary && summary->steps >= step);
  MEZZO_CHECK_USAGE(!is_over, "train",
                    "steps must be above {}, which are done in {}, but is {}. Hint: --steps {}",
                    step, config.resume, config.steps, 2 * step);
}

void check(const GenerateOptions& options) {
  constexpr int64_t kMostTokens = 1'000'000;
  MEZZO_CHECK_USAGE(options.tokens >= 0 && options.tokens <= kMostTokens, "generate",
                    "--tokens must be from 0 to {}, but is {}", kMostTokens, options.tokens);
  MEZZO_CHECK_USAGE(options.temperature >= 0 && std::isfinite(options.temperature), "generate",
                    "--temperature must be 0 or above and finite, but is {}", options.temperature);
  MEZZO_CHECK_USAGE(options.top_k >= 0, "generate", "--top-k must be 0 or above, but is {}",
                    options.top_k);
  MEZZO_CHECK_USAGE(options.seed >= 0, "generate", "--seed must be 0 or above, but is {}",
                    options.seed);
}

void check_prompt(const std::string& prompt, const data::Tokenizer& tokenizer) {
  const std::optional<int32_t> end = tokenizer.end_of_text();
  MEZZO_CHECK_USAGE(!prompt.empty(), "generate", "--prompt must not be empty{}",
                    end ? fmt::format(". Hint: --prompt '{}' begins a new text",
                                      tokenizer.decode(std::vector<int32_t>{*end}))
                        : "");
}

}  // namespace

fs::path cache_folder() {
  const auto variable = [](const char* name) -> fs::path {
    const char* value = std::getenv(name);
    return value == nullptr ? "" : value;
  };
  if (const fs::path own = variable("MEZZO_CACHE"); !own.empty()) return own;
  if (const fs::path xdg = variable("XDG_CACHE_HOME"); !xdg.empty()) return xdg / "mezzo";
  fs::path home = variable("HOME");
  const passwd* user = home.empty() ? ::getpwuid(::getuid()) : nullptr;
  if (user != nullptr) home = user->pw_dir;
  MEZZO_CHECK(!home.empty(), "data",
              "there is no place for packed text: neither HOME nor XDG_CACHE_HOME is set, and user "
              "{} has no home. Hint: set MEZZO_CACHE",
              ::getuid());
  return home / ".cache" / "mezzo";
}

RunData open_data(const RunConfig& config, const DataProgress& progress) {
  const fs::path path = config.data.empty() ? default_corpus() : fs::path(config.data);
  const models::ModelConfig model = model_config(config);
  if (data::is_token_data(path)) {
    data::TokenFile tokens = data::TokenFile::open(
        path, {.vocab_size = model.vocab_size, .min_held_out = model.context + 1});
    std::optional<data::Tokenizer> tokenizer =
        tokenizer_of_tokens(config, tokens, data::tokenizer_beside(path, tokens));
    return {std::move(tokenizer), std::move(tokens)};
  }
  data::PackOptions options;
  options.vocab_size = model.vocab_size;
  options.tokenizer = initial_tokenizer_for_text(config);
  options.progress = progress;
  if (config.data.empty()) options.corpus.extensions = {".py"};
  data::PackedData packed = data::open_or_pack(path, cache_folder(), options);
  RunData opened{std::move(packed.tokenizer), std::move(packed.tokens)};
  if (packed.statistics) opened.skipped = std::move(packed.statistics->skipped);
  return opened;
}

report::Summary train(RunConfig& config, const RunData& data, report::Sinks& sinks,
                      const std::atomic<bool>& stop) {
  const RunFolder held(config);
  const fs::path folder = held.path();
  config.out = folder.string();
  const CastPolicyGuard policy(cast_policy_of(config));
  Trainer trainer(config, folder, data.tokens, sinks);
  if (!config.resume.empty()) {
    trainer.resume(find_checkpoint(config.resume));
    check_is_not_over(config, folder, trainer.step());
  }
  write_file_atomically(folder / kConfigFile, to_toml(config));
  if (data.tokenizer.has_value()) data.tokenizer->save(folder / kTokenizerFile);
  sinks.add(std::make_unique<report::MetricsFile>(folder / report::kMetricsFile, trainer.step()));
  sinks.add(std::make_unique<report::SummaryFile>(folder / report::kSummaryFile));
  sinks.add(std::make_unique<report::TensorBoard>(folder));
  sinks.add(std::make_unique<report::ReportFile>(folder, page_facts(config)));
  const report::Summary summary = trainer.run(stop);
  if (summary.status == report::Status::kDone) generate_sample(trainer, config, data, sinks);
  return summary;
}

ExaminedStep examine(const RunConfig& config_in, const RunData& data, report::Sinks& sinks,
                     const std::atomic<bool>& stop) {
  RunConfig config = config_in;
  config.release_gradients = false;  // a step that is run again needs them; the bits are the same
  const CastPolicyGuard policy(cast_policy_of(config));
  Trainer trainer(config, config.out, data.tokens, sinks);
  if (!config.resume.empty()) trainer.resume(find_checkpoint(config.resume));
  MEZZO_CHECK_USAGE(config.steps >= trainer.step(), "doctor",
                    "steps must be at least {}, which are done in {}, but is {}. Hint: --steps {}",
                    trainer.step(), config.resume, config.steps, 2 * trainer.step());
  return trainer.examine(stop);
}

void generate(const GenerateOptions& options,
              const std::function<bool(std::string_view text)>& say) {
  check(options);
  const StoredModel stored = find_model(options.run);
  const RunConfig& config = stored.config;
  const std::optional<data::Tokenizer> tokenizer = load_tokenizer(stored);
  MEZZO_CHECK_USAGE(tokenizer, "generate",
                    "{} has no tokenizer.json: the model was trained on tokens alone. Hint: put "
                    "its tokenizer.json there",
                    stored.tokenizer.parent_path().string());
  check_prompt(options.prompt, *tokenizer);

  const PrecisionMode& mode = precision_mode(config.precision);
  const CastPolicyGuard policy(cast_policy_of(config));
  models::LanguageModel model = models::make_language_model(model_config(config));
  model->to(mode.weights);
  model->set_fused(is_fused(config));
  load_parameters(model, load_weights(stored, mode.weights), stored.weights.string());
  const std::vector<int32_t> prompt = tokenizer->encode(options.prompt);
  const Autocast autocast(at::kCPU, mode.autocast, mode.autocast.has_value());
  if (!say(options.prompt)) return;
  std::string unsaid;  // the beginning of a character
  models::sample(model, {prompt.begin(), prompt.end()}, options.tokens,
                 {.temperature = options.temperature,
                  .top_k = options.top_k,
                  .vocab_size = tokenizer->vocab_size(),
                  .never = tokenizer->gaps(),
                  .seed = static_cast<uint64_t>(options.seed)},
                 [&](int64_t id) {
                   unsaid += tokenizer->decode(std::vector<int32_t>{static_cast<int32_t>(id)});
                   const size_t whole = unsaid.size() - data::unfinished_utf8_tail(unsaid);
                   const std::string text = data::to_well_formed_utf8(unsaid.substr(0, whole));
                   unsaid.erase(0, whole);
                   return say(text);
                 });
  say(data::to_well_formed_utf8(unsaid));
}

}  // namespace mezzo::train
