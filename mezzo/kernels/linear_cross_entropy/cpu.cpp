#include <algorithm>
#include <numeric>
#include <vector>

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/zeros.h>

#include "mezzo/base/check.h"
#include "mezzo/kernels/ceil_div.h"
#include "mezzo/kernels/linear_cross_entropy/chunked.h"
#include "mezzo/kernels/linear_cross_entropy/elementwise.h"
#include "mezzo/kernels/linear_cross_entropy/row.h"
#include "mezzo/kernels/matmul/matmul.h"

namespace mezzo::kernels {
namespace {

// Of a chunk's logits: less costs time, as grad weight is gone through once a chunk; more costs
// memory.
constexpr int64_t kChunkBytes = int64_t{64} << 20;

// Several chunks sum grad weight [V, C] in fp32. Where all logits take no more than that sum, one
// chunk, whose grad weight has the products' dtype, is both smaller and faster.
int64_t chunk_bytes_for(const at::Tensor& rows, int64_t V, bool wants_weight) {
  const int64_t all = rows.size(0) * V * rows.element_size();
  const int64_t sum = V * rows.size(1) * static_cast<int64_t>(sizeof(float));
  return wants_weight && all <= sum ? all : kChunkBytes;
}

// How many rows count. Throws for a target that no row of weight belongs to.
int64_t count_rows(const at::Tensor& targets, int64_t V, int64_t ignore_index) {
  const int64_t* data = targets.const_data_ptr<int64_t>();
  int64_t count = 0;
  for (int64_t i = 0; i < targets.numel(); ++i) {
    if (data[i] == ignore_index) continue;
    MEZZO_CHECK(data[i] >= 0 && data[i] < V, "linear_cross_entropy",
                "targets must be in [0, {}) or ignore_index {}, but number {} is {}", V,
                ignore_index, i, data[i]);
    ++count;
  }
  return count;
}

/// Writes the rows' losses, and turns logits [rows, V] into their gradient.
template <class T>
void rows_loss(const at::Tensor& logits, const int64_t* targets, int64_t ignore_index,
               const RowTerms& terms, double* losses) {
  const int64_t V = logits.size(1);
  T* data = logits.mutable_data_ptr<T>();
  at::parallel_for(0, logits.size(0), 1, [&](int64_t begin, int64_t end) {
    std::vector<float> exponentials(static_cast<size_t>(V));
    for (int64_t i = begin; i < end; ++i) {
      if (targets[i] != ignore_index) {
        losses[i] = simd<row_loss<T>>(data + i * V, V, targets[i], terms, exponentials.data());
      } else if (terms.wants_gradient) {
        std::fill_n(data + i * V, V, T(0));
      }
    }
  });
}

// sum [V, C] += grad_logits^T x, in fp32 unless there is one chunk only.
void add_product(at::Tensor& sum, const at::Tensor& grad_logits, const at::Tensor& x,
                 bool is_only_chunk) {
  if (is_only_chunk) {
    sum = kernels::mm(grad_logits.t(), x);
    return;
  }
  if (!sum.defined())
    sum = at::zeros({grad_logits.size(1), x.size(1)}, x.options().dtype(at::kFloat));
  kernels::add_mm(sum, grad_logits.t(), x);
}

}  // namespace

LossAndGradients cpu::linear_cross_entropy(const at::Tensor& x, const at::Tensor& weight,
                                           const at::Tensor& targets,
                                           const LinearCrossEntropyOptions& options,
                                           GradientsWanted wanted,
                                           std::optional<int64_t> chunk_bytes) {
  const int64_t V = weight.size(0), C = weight.size(1);
  // Factors that every chunk's products would widen are widened once.
  const at::ScalarType dtype = kernels::widens(x.scalar_type()) ? at::kFloat : x.scalar_type();
  const bool is_bf16 = dtype == at::kBFloat16;
  const at::Tensor rows = x.reshape({-1, C}).to(dtype), factors = weight.to(dtype);
  const at::Tensor all_targets = targets.reshape(-1).contiguous();
  const int64_t N = rows.size(0);
  const int64_t count = count_rows(all_targets, V, options.ignore_index);
  const RowTerms terms{options.label_smoothing, options.z_loss, 1.0 / static_cast<double>(count),
                       wanted.x || wanted.weight};

  const int64_t logits_bytes = chunk_bytes.value_or(chunk_bytes_for(rows, V, wanted.weight));
  const int64_t most_rows = std::max<int64_t>(1, logits_bytes / (V * rows.element_size()));
  const int64_t chunks = ceil_div(N, most_rows);
  const int64_t rows_a_chunk = ceil_div(N, std::max<int64_t>(1, chunks));

  LossAndGradients result;
  if (wanted.x) result.grad_x = at::empty({N, C}, rows.options());
  if (wanted.weight && N == 0) result.grad_weight = at::zeros({V, C}, rows.options());
  std::vector<double> losses(N, 0.0);
  for (int64_t begin = 0; begin < N; begin += rows_a_chunk) {
    const int64_t end = std::min(begin + rows_a_chunk, N);
    const at::Tensor x_chunk = rows.slice(0, begin, end);
    const at::Tensor logits = kernels::mm(x_chunk, factors.t());
    (is_bf16 ? rows_loss<c10::BFloat16>
             : rows_loss<float>)(logits, all_targets.const_data_ptr<int64_t>() + begin,
                                 options.ignore_index, terms, losses.data() + begin);
    if (wanted.x) result.grad_x.slice(0, begin, end).copy_(kernels::mm(logits, factors));
    if (wanted.weight) add_product(result.grad_weight, logits, x_chunk, chunks == 1);
  }
  const double sum = std::accumulate(losses.begin(), losses.end(), 0.0);
  result.loss = at::scalar_tensor(sum / static_cast<double>(count), at::kFloat);
  return result;
}

}  // namespace mezzo::kernels
