// --init: a run that starts from the weights of another model, with everything else new.
#pragma once

#include <filesystem>
#include <optional>

#include <c10/core/ScalarType.h>

#include "mezzo/data/token_file.h"
#include "mezzo/data/tokenizer.h"
#include "mezzo/train/checked_folder.h"  // TensorMap
#include "mezzo/train/run_config.h"

namespace mezzo::train {

/// Whether the run takes its first weights from config.init. One that is resumed has its own.
bool starts_from_init(const RunConfig& config);

/// Sets the shape of the model to that of config.init, all of it, so that a resume knows it without
/// that folder. The context may be smaller. `names_model`: config.model was asked for, and is not
/// the default. Throws UsageError for a size that is set and is another, naming both; throws as
/// find_model() does.
void take_initial_shape(RunConfig& config, bool names_model);

/// The weights of config.init in `dtype`, of positions those in the context. Throws Error for
/// weights that are not finite in it, naming them, and as load_weights() does.
TensorMap initial_weights(const RunConfig& config, at::ScalarType dtype);

/// The tokenizer of config.init's model, the one whose tokens it knows; once the run has begun, as
/// it is in its own folder. Nothing without config.init, or if there is none.
std::optional<data::Tokenizer> initial_tokenizer(const RunConfig& config);

/// The same for a text, which must be packed with it. Throws UsageError if there is none for
/// config.init.
std::optional<data::Tokenizer> initial_tokenizer_for_text(const RunConfig& config);

/// The tokenizer to go with tokens that have come with `own`: that, or else the initial one. Throws
/// UsageError if they are more than config.init's model knows, or were made by another tokenizer
/// than the initial one, as far as one can tell.
std::optional<data::Tokenizer> tokenizer_of_tokens(const RunConfig& config,
                                                   const data::TokenFile& tokens,
                                                   std::optional<data::Tokenizer> own);

}  // namespace mezzo::train
