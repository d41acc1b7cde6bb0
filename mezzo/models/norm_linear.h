#pragma once

#include <string_view>
#include <tuple>

#include <ATen/core/Tensor.h>

#include "mezzo/models/decoder_block.h"
#include "mezzo/models/layers.h"

namespace mezzo::models {

/// How either half of a block begins: the sum of the residual stream, and what `linear`, of the
/// part `name`, makes of its norm.
/// @{
std::tuple<at::Tensor, at::Tensor> norm_linear(std::string_view name, const Residual& in,
                                               LayerNorm& norm, Linear& linear,
                                               const BlockOps& ops);
std::tuple<at::Tensor, at::Tensor> norm_linear(std::string_view name, const Residual& in,
                                               RMSNorm& norm, Linear& linear, const BlockOps& ops);
/// @}

}  // namespace mezzo::models
