#pragma once

#include <cstdint>
#include <filesystem>

namespace mezzo::train {

/// What export_model() has written.
struct Exported {
  int64_t parameters = 0;
  bool has_tokenizer = false;
};

/// Writes the model of a run or a checkpoint (find_model) as a Hugging Face folder, `out`: its
/// weights in fp32, and its tokenizer, if it has one. Throws UsageError if there are files in
/// `out`, and as find_model(), load_weights() and save_hf_folder() do.
Exported export_model(const std::filesystem::path& place, const std::filesystem::path& out);

}  // namespace mezzo::train
