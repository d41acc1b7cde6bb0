#pragma once

#include <cstdint>
#include <optional>

#include <ATen/core/Tensor.h>

namespace mezzo::kernels {

// Rotary position embedding (Su et al., RoFormer, arXiv 2104.09864, section 3.2.2). The D numbers
// of a head are D/2 pairs; at position t, pair i is turned in its plane by the angle
// t base^(-2i/D), so that the product of a query at m and a key at n knows of m - n alone:
//
//   (a, b)  ->  (a cos - b sin,  a sin + b cos)

/// Which two of a head's numbers are a pair. It goes with the weights: those of one pairing are
/// those of the other with the rows of each head's queries and keys in another order.
enum class RopePairs {
  kHalves,       ///< i and i + D/2: GPT-NeoX, and Llama as Hugging Face keeps it
  kInterleaved,  ///< 2i and 2i + 1: the paper, GPT-J, and Llama as Meta keeps it
};

/// Llama 3.1's way to a longer context, `rope_type` "llama3" of a Hugging Face configuration
/// (_compute_llama3_parameters in transformers' modeling_rope_utils.py): a pair that turns at most
/// low_freq_factor times in the original context turns `factor` times slower, one that turns at
/// least high_freq_factor times as before, and one between the two by a mixture of both.
struct Llama3Scaling {
  double factor = 8.0;
  double low_freq_factor = 1.0;
  double high_freq_factor = 4.0;
  int64_t original_context = 8192;  ///< original_max_position_embeddings
};

struct RopeOptions {
  double base = 10000.0;  ///< rope_theta of a configuration; 500000 in Llama 3
  std::optional<Llama3Scaling> scaling = std::nullopt;
};

/// What rope() turns by, made once for a model: of each position 0, 1, ... the D/2 cosines, then
/// the D/2 sines.
///   D        of a head; even
///   returns  [positions, D] fp32 on the CPU: angles, cosines and sines are fp64 and rounded once.
///            (Models that multiply position and frequency in fp32 are off by up to
///            position 2^-23 in the angle: 2^-10 at 8192.)
/// Throws Error for an odd D and options that make no angles.
at::Tensor rope_table(int64_t positions, int64_t D, const RopeOptions& options = {});

/// x turned by its positions, as one node of autograd.
///   x        [B, T, H, D], any float type. The numbers of a head should lie side by side, the rest
///            anywhere: a part of a packed [B, T, 3 C] is read where it is. Queries and keys that
///            are neighbours there are one x of all their heads.
///   table    [at least T, D] fp32, on the device of x: position t of x takes row t. A sequence
///            that goes on after `past` positions takes table.slice(0, past).
///   returns  [B, T, H, D] in the dtype of x, contiguous; computed in fp32 (fp64 for fp64) and
///            rounded once. Max error beside the table's own: 2 fp32 roundings of |a| + |b|, and
///            one to the dtype.
/// The gradient is turned back by the same angles; nothing but the table is kept for it, and it can
/// be differentiated again. The op mezzo::rope of the dispatcher: under Autocast x passes as it
/// comes. Throws Error where x and table do not fit.
at::Tensor rope(const at::Tensor& x, const at::Tensor& table, RopePairs pairs = RopePairs::kHalves);

}  // namespace mezzo::kernels
