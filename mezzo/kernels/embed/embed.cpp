#include "mezzo/kernels/embed/embed.h"

#include <algorithm>
#include <numeric>
#include <vector>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <ATen/Parallel.h>
#include <ATen/ops/_sparse_coo_tensor_unsafe.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/embedding_dense_backward.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/custom_function.h>

#include "mezzo/base/check.h"
#include "mezzo/kernels/double_backward.h"
#include "mezzo/kernels/sum_of_rows/sum_of_rows.h"

namespace mezzo::kernels {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

void check_shapes(const at::Tensor& tokens, const at::Tensor& table) {
  MEZZO_CHECK(tokens.dim() == 2 && tokens.scalar_type() == at::kLong, "embed",
              "tokens must be int64 [B, T], but are {} [{}]", c10::toString(tokens.scalar_type()),
              fmt::join(tokens.sizes(), ", "));
  MEZZO_CHECK(table.dim() == 2, "embed", "table must be [V, C], but is [{}]",
              fmt::join(table.sizes(), ", "));
}

void check_positions(const at::Tensor& tokens, const at::Tensor& table,
                     const at::Tensor& positions) {
  MEZZO_CHECK(positions.dim() == 2 && table.size(1) == positions.size(1), "embed",
              "table and positions must be [V, C] and [L, C], but are [{}] and [{}]",
              fmt::join(table.sizes(), ", "), fmt::join(positions.sizes(), ", "));
  MEZZO_CHECK(
      tokens.size(1) <= positions.size(0), "embed",
      "a row has {} tokens, but there are only {} positions. Hint: shorter rows, or a larger "
      "table of positions",
      tokens.size(1), positions.size(0));
}

void check_ids(const at::Tensor& tokens, int64_t V) {
  if (tokens.numel() == 0 || !tokens.is_cpu()) return;  // on a GPU a device assertion finds it
  const auto [low, high] = tokens.aminmax();
  MEZZO_CHECK(low.item<int64_t>() >= 0 && high.item<int64_t>() < V, "embed",
              "token ids must be in [0, {}), but go from {} to {}", V, low.item<int64_t>(),
              high.item<int64_t>());
}

struct RowsOfIds {
  std::vector<int64_t> ids;     // that occur, in rising order
  std::vector<int64_t> places;  // where they occur, id by id, each in rising order
  std::vector<int64_t> first;   // of each id's places; one more at the end
};

RowsOfIds rows_of_ids(const at::Tensor& tokens) {
  const int64_t N = tokens.numel();
  const int64_t* ids = tokens.const_data_ptr<int64_t>();
  RowsOfIds rows;
  rows.places.resize(static_cast<size_t>(N));
  std::iota(rows.places.begin(), rows.places.end(), 0);
  std::stable_sort(rows.places.begin(), rows.places.end(),
                   [&](int64_t a, int64_t b) { return ids[a] < ids[b]; });
  for (int64_t i = 0; i < N; ++i) {
    const int64_t id = ids[rows.places[static_cast<size_t>(i)]];
    if (!rows.ids.empty() && rows.ids.back() == id) continue;
    rows.ids.push_back(id);
    rows.first.push_back(i);
  }
  rows.first.push_back(N);
  return rows;
}

// [ids, C] fp32: for each id the sum of the gradient's rows at its places.
at::Tensor sums_by_id(const RowsOfIds& rows, const at::Tensor& grad) {
  const auto count = static_cast<int64_t>(rows.ids.size());
  const int64_t C = grad.size(-1);
  at::Tensor sums = at::zeros({count, C}, at::kFloat);
  const at::Tensor wide = grad.to(at::kFloat).contiguous();
  const float* from = wide.const_data_ptr<float>();
  float* to = sums.mutable_data_ptr<float>();
  at::parallel_for(0, count, 16, [&](int64_t begin, int64_t end) {
    for (int64_t id = begin; id < end; ++id) {
      for (int64_t i = rows.first[static_cast<size_t>(id)];
           i < rows.first[static_cast<size_t>(id) + 1]; ++i) {
        const float* row = from + rows.places[static_cast<size_t>(i)] * C;
        for (int64_t c = 0; c < C; ++c) to[id * C + c] += row[c];
      }
    }
  });
  return sums;
}

at::Tensor table_gradient(const at::Tensor& tokens, const at::Tensor& grad, const at::Tensor& table,
                          bool sparse) {
  // A GPU sums rows by sorted ids, in fp32; the host is not asked.
  if (tokens.is_cuda())
    return at::embedding_dense_backward(grad.to(at::kFloat), tokens, table.size(0),
                                        /*padding_idx=*/-1, /*scale_grad_by_freq=*/false)
        .to(table.scalar_type());
  const at::Tensor places = tokens.cpu().contiguous();
  RowsOfIds rows = rows_of_ids(places);
  const at::Tensor values = sums_by_id(rows, grad.cpu()).to(table.options());
  const at::Tensor ids =
      at::from_blob(rows.ids.data(), {1, static_cast<int64_t>(rows.ids.size())}, at::kLong)
          .to(table.device(), at::kLong, /*non_blocking=*/false, /*copy=*/true);
  if (!sparse) return at::zeros_like(table).index_copy_(0, ids[0], values);
  return at::_sparse_coo_tensor_unsafe(ids, values, table.sizes())._coalesced_(true);
}

at::Tensor position_gradient(const at::Tensor& grad, const at::Tensor& positions) {
  at::Tensor by_position = at::zeros_like(positions);
  by_position.slice(0, 0, grad.size(1))
      .copy_(sum_of_rows(grad.flatten(1)).view({grad.size(1), grad.size(2)}));
  return by_position;
}

class Embed : public torch::autograd::Function<Embed> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& tokens, const at::Tensor& table,
                            const std::optional<at::Tensor>& maybe_positions, at::ScalarType dtype,
                            bool sparse) {
    check_ids(tokens, table.size(0));
    const at::Tensor positions = maybe_positions.value_or(at::Tensor());
    ctx->save_for_backward({tokens, table, positions});
    ctx->saved_data["sparse"] = sparse;
    at::Tensor y = at::embedding(table, tokens).to(dtype);
    return positions.defined() ? y.add_(positions.slice(0, 0, tokens.size(1))) : y;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    check_no_double_backward("embed");
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor &tokens = saved[0], &table = saved[1], &positions = saved[2], &grad = grads[0];
    at::Tensor by_table, by_position;
    if (ctx->needs_input_grad(1))
      by_table = table_gradient(tokens, grad, table, ctx->saved_data["sparse"].toBool());
    // Without positions the node has no third input to ask about.
    if (positions.defined() && ctx->needs_input_grad(2))
      by_position = position_gradient(grad, positions);
    return {{}, by_table, by_position, {}, {}};
  }
};

}  // namespace

at::Tensor embed(const at::Tensor& tokens, const at::Tensor& table,
                 const std::optional<at::Tensor>& positions, at::ScalarType dtype, bool sparse) {
  check_shapes(tokens, table);
  if (positions.has_value()) check_positions(tokens, table, *positions);
  return Embed::apply(tokens, table, positions, dtype, sparse);
}

}  // namespace mezzo::kernels
