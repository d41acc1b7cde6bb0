#pragma once

#include <optional>
#include <span>
#include <string_view>

#include "mezzo/amp/cast_rule.h"

namespace mezzo {

/// One op's rule in each of the lists. None: the list does not name it, and the op runs on its
/// arguments as they come.
struct CastTableRow {
  std::string_view op;                   ///< with its overload: "softmax.int"; or of Mezzo's own
  std::optional<CastRule> pytorch_cuda;  ///< torch.autocast("cuda")'s
  std::optional<CastRule> pytorch_cpu;   ///< torch.autocast("cpu")'s
  std::optional<CastRule> mezzo;         ///< on a CPU; elsewhere pytorch_cuda's, but for own ops

  /// One of the namespace mezzo, and so on neither of PyTorch's lists.
  constexpr bool is_own() const { return op.starts_with("mezzo::"); }
};

/// The ops on libtorch 2.11's autocast lists (ATen/autocast_mode.h for CUDA, autocast_mode.cpp for
/// the CPU), by name, and Mezzo's own ops. Not among them: _cudnn_rnn, which keeps libtorch's own
/// kernel.
std::span<const CastTableRow> cast_table();

/// What to write instead of a banned op, for an error message.
std::string_view instead_of_banned(std::string_view op);

}  // namespace mezzo
