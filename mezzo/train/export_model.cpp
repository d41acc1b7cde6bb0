#include "mezzo/train/export_model.h"

#include "mezzo/base/check.h"
#include "mezzo/models/model_config.h"
#include "mezzo/train/hf_folder.h"
#include "mezzo/train/run_parts.h"
#include "mezzo/train/stored_model.h"

namespace mezzo::train {

namespace fs = std::filesystem;

Exported export_model(const fs::path& place, const fs::path& out_given) {
  const fs::path out = out_given.has_filename() ? out_given : out_given.parent_path();  // "new/"
  const StoredModel model = find_model(place);
  const bool is_free = !fs::exists(out) || (fs::is_directory(out) && fs::is_empty(out));
  MEZZO_CHECK_USAGE(is_free, "export", "--out {} must be a new or an empty folder, but {}",
                    out.string(), fs::is_directory(out) ? "holds files" : "is a file");
  const models::ModelConfig shape = model_config(model.config);
  const std::optional<data::Tokenizer> tokenizer = load_tokenizer(model);
  save_hf_folder(out, shape, load_weights(model, at::kFloat), tokenizer);
  return {models::parameter_count(shape), tokenizer.has_value()};
}

}  // namespace mezzo::train
