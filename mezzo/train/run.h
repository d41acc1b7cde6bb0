#pragma once

#include <atomic>
#include <filesystem>
#include <functional>
#include <optional>
#include <string_view>
#include <vector>

#include "mezzo/data/corpus.h"
#include "mezzo/data/token_file.h"
#include "mezzo/data/tokenizer.h"
#include "mezzo/report/sink.h"
#include "mezzo/train/diagnosis_files.h"
#include "mezzo/train/run_config.h"

namespace mezzo::train {

using DataProgress = std::function<void(std::string_view phase, double fraction)>;

/// What a run trains on. Foreign token files (llm.c, nanoGPT) come without a tokenizer.
struct RunData {
  std::optional<data::Tokenizer> tokenizer;
  data::TokenFile tokens;
  std::vector<data::SkippedFile> skipped = {};  // of text that was packed now
};

/// Opens config.data: a token file as it is; text or a folder of text packed into the cache first,
/// with a tokenizer of the model's vocabulary size trained on it, once; without --data the default
/// corpus, the *.py sources inside the torch wheel this program was built with. With config.init
/// text is packed with that model's tokenizer. Throws UsageError if there is no such data, or if it
/// does not fit that model.
RunData open_data(const RunConfig& config, const DataProgress& progress);

/// Where packed corpora are kept: $MEZZO_CACHE, else $XDG_CACHE_HOME/mezzo, else ~/.cache/mezzo.
std::filesystem::path cache_folder();

/// Trains as `config` says: makes the run's folder (config.toml, tokenizer.json), which config.out
/// then names, or goes on in the one that config.resume names; adds metrics.jsonl and summary.json
/// to `sinks`; ends with a sample of generated text, as a note. Throws as RunFolder does.
report::Summary train(RunConfig& config, const RunData& data, report::Sinks& sinks,
                      const std::atomic<bool>& stop);

/// Trains as `config` says, or goes on from the checkpoint of config.resume, until a step is not
/// finite for no known reason, and diagnoses it; if none comes, the last step. Writes no file.
ExaminedStep examine(const RunConfig& config, const RunData& data, report::Sinks& sinks,
                     const std::atomic<bool>& stop);

/// Which text a stored model (find_model) is to write.
struct GenerateOptions {
  std::filesystem::path run;  // a run's folder, one of its checkpoints, or a Hugging Face folder
  std::string prompt;
  int64_t tokens = 200;
  double temperature = 0.8;
  int64_t top_k = 50;  // 0: all
  int64_t seed = 1;
};

/// Says the prompt and what follows it as it is made, in whole characters, until there are as many
/// tokens as wanted or `say` returns false. Throws UsageError for options that are out of range.
void generate(const GenerateOptions& options,
              const std::function<bool(std::string_view text)>& say);

}  // namespace mezzo::train
