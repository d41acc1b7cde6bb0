#include "mezzo/kernels/attention/grouped.h"

#include <ATen/SDPBackend.h>
#include <ATen/ops/_fused_sdp_choice.h>
#include <ATen/ops/scaled_dot_product_attention.h>

namespace mezzo::kernels {

at::Tensor grouped_attention(const at::Tensor& query, const at::Tensor& key,
                             const at::Tensor& value, double dropout_p) {
  const int64_t repeats = query.size(1) / key.size(1);
  const auto attend = [&](const at::Tensor& k, const at::Tensor& v, bool is_grouped) {
    return at::scaled_dot_product_attention(query, k, v, /*attn_mask=*/{}, dropout_p,
                                            /*is_causal=*/true, /*scale=*/{}, is_grouped);
  };
  if (repeats == 1) return attend(key, value, false);
  const int64_t choice = at::_fused_sdp_choice(query, key, value, /*attn_mask=*/{}, dropout_p,
                                               /*is_causal=*/true, /*scale=*/{},
                                               /*enable_gqa=*/true);
  if (choice != static_cast<int64_t>(at::SDPBackend::math)) return attend(key, value, true);
  return attend(key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1), false);
}

}  // namespace mezzo::kernels
