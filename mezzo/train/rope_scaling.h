#pragma once

#include <optional>
#include <string>

#include "mezzo/kernels/rope/rope.h"

namespace mezzo::train {

/// The scaling that --rope-scaling describes: "none", or Llama 3's as
/// "FACTOR,LOW,HIGH,ORIGINAL_CONTEXT", four numbers above 0 of which HIGH is above LOW and the last
/// is whole. Nothing for another text.
std::optional<std::optional<kernels::Llama3Scaling>> rope_scaling_of(const std::string& text);

/// The text that describes it.
std::string rope_scaling_text(const std::optional<kernels::Llama3Scaling>& scaling);

}  // namespace mezzo::train
