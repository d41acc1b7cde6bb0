#include <algorithm>

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>

#include "mezzo/kernels/ceil_div.h"
#include "mezzo/kernels/residual_norm/residual_norm.h"
#include "mezzo/kernels/residual_norm/rows.h"
#include "mezzo/kernels/residual_norm/statistics.h"

namespace mezzo::kernels {
namespace {

// Rows of one partial sum of the weight's gradient: a fixed number, so that the order of the sums,
// and with it every bit, is the same for any number of threads.
constexpr int64_t kRowsOfPartial = 64;

// Rows that are worth a thread: about 32 Ki elements.
int64_t grain(int64_t C) { return std::max<int64_t>(1, (1 << 15) / std::max<int64_t>(C, 1)); }

/// f(T{}, O{}) for the dtypes of stream and output, if there is a loop for them.
template <class F>
bool with_types(at::ScalarType stream, at::ScalarType out, F&& f) {
  using c10::BFloat16, c10::Half;
  if (stream == at::kFloat && out == at::kFloat) return f(float{}, float{}), true;
  if (stream == at::kFloat && out == at::kBFloat16) return f(float{}, BFloat16{}), true;
  if (stream == at::kFloat && out == at::kHalf) return f(float{}, Half{}), true;
  if (stream == at::kBFloat16 && out == at::kBFloat16) return f(BFloat16{}, BFloat16{}), true;
  if (stream == at::kHalf && out == at::kHalf) return f(Half{}, Half{}), true;
  return false;
}

at::Tensor vector_of(const at::Tensor& value, int64_t C) {
  return value.defined() ? value.to(at::kFloat).contiguous() : at::zeros({C}, at::kFloat);
}

int64_t rows_of(const at::Tensor& x) { return x.numel() / std::max<int64_t>(x.size(-1), 1); }

/// Null for a mean that there is none of.
const float* address(const at::Tensor& mean) {
  return mean.defined() ? mean.const_data_ptr<float>() : nullptr;
}

template <class T, class B, class O>
void run(const NormRows<T, B, O>& rows, int64_t count) {
  at::parallel_for(0, count, grain(rows.C),
                   [&](int64_t begin, int64_t end) { simd<norm_rows<T, B, O>>(rows, begin, end); });
}

template <class T, class O>
void run(const at::Tensor& x, const at::Tensor& branch, const at::Tensor& weight,
         const at::Tensor& bias, double eps, ResidualNorm& result) {
  const auto rows_with = [&]<class B>(const B* added) {
    return NormRows<T, B, O>{
        x.const_data_ptr<T>(),
        added,
        weight.const_data_ptr<float>(),
        bias.const_data_ptr<float>(),
        result.sum.mutable_data_ptr<T>(),
        result.normed.mutable_data_ptr<O>(),
        result.mean.defined() ? result.mean.mutable_data_ptr<float>() : nullptr,
        result.rstd.mutable_data_ptr<float>(),
        x.size(-1),
        static_cast<float>(eps)};
  };
  if (!branch.defined()) {
    run(rows_with(static_cast<const T*>(nullptr)), rows_of(x));
  } else if (branch.scalar_type() == c10::CppTypeToScalarType<O>::value) {
    run(rows_with(branch.const_data_ptr<O>()), rows_of(x));
  } else {  // fp32 holds each of the others exactly
    const at::Tensor wide = branch.to(at::kFloat);
    run(rows_with(wide.const_data_ptr<float>()), rows_of(x));
  }
}

}  // namespace

bool cpu::takes_norm(const at::Tensor& x, at::ScalarType out) {
  return x.is_cpu() && with_types(x.scalar_type(), out, [](auto, auto) {});
}

ResidualNorm cpu::residual_norm(const at::Tensor& x_in, const at::Tensor& branch_in,
                                const at::Tensor& weight, const at::Tensor& bias, double eps,
                                at::ScalarType dtype, NormKind kind) {
  const at::Tensor x = x_in.contiguous();
  const at::Tensor branch = branch_in.defined() ? branch_in.contiguous() : branch_in;
  ResidualNorm result{
      branch.defined() ? at::empty_like(x) : x, at::empty(x.sizes(), x.options().dtype(dtype)),
      kind == NormKind::kLayer ? statistics_like(x) : at::Tensor(), statistics_like(x)};
  with_types(x.scalar_type(), dtype, [&]<class T, class O>(T, O) {
    run<T, O>(x, branch, vector_of(weight, x.size(-1)), vector_of(bias, x.size(-1)), eps, result);
  });
  return result;
}

at::Tensor cpu::norm_again(const at::Tensor& sum, const at::Tensor& mean, const at::Tensor& rstd,
                           const at::Tensor& weight, const at::Tensor& bias, at::ScalarType dtype) {
  at::Tensor normed = at::empty(sum.sizes(), sum.options().dtype(dtype));
  const at::Tensor w = vector_of(weight, sum.size(-1)), b = vector_of(bias, sum.size(-1));
  with_types(sum.scalar_type(), dtype, [&]<class T, class O>(T, O) {
    at::parallel_for(0, rows_of(sum), grain(sum.size(-1)), [&](int64_t begin, int64_t end) {
      simd<norm_again_rows<T, O>>(sum.const_data_ptr<T>(), address(mean),
                                  rstd.const_data_ptr<float>(), w.const_data_ptr<float>(),
                                  b.const_data_ptr<float>(), normed.mutable_data_ptr<O>(),
                                  sum.size(-1), begin, end);
    });
  });
  return normed;
}

ResidualNormGrads cpu::residual_norm_backward(const at::Tensor& grad_normed_in,
                                              const at::Tensor& grad_sum_in, const at::Tensor& sum,
                                              const at::Tensor& mean, const at::Tensor& rstd,
                                              const at::Tensor& weight, const at::Tensor& bias,
                                              ResidualNormExtras extras) {
  const at::Tensor grad_normed = grad_normed_in.contiguous();
  const at::Tensor grad_sum =
      grad_sum_in.defined() ? grad_sum_in.to(sum.scalar_type()).contiguous() : grad_sum_in;
  const int64_t C = sum.size(-1), rows = rows_of(sum);
  const int64_t partials = ceil_div(rows, kRowsOfPartial);
  at::Tensor grad_x = at::empty_like(sum),
             grad_branch = extras.branch ? at::empty_like(grad_normed) : at::Tensor(),
             normed = extras.normed ? at::empty_like(grad_normed) : at::Tensor();
  const at::Tensor parts = at::zeros({2, partials, C}, at::kFloat), w = vector_of(weight, C),
                   b = vector_of(bias, C);
  float* grad_weight = parts.mutable_data_ptr<float>();
  with_types(sum.scalar_type(), grad_normed.scalar_type(), [&]<class T, class O>(T, O) {
    const NormGradRows<T, O> all{grad_normed.const_data_ptr<O>(),
                                 grad_sum.defined() ? grad_sum.const_data_ptr<T>() : nullptr,
                                 sum.const_data_ptr<T>(),
                                 address(mean),
                                 rstd.const_data_ptr<float>(),
                                 w.const_data_ptr<float>(),
                                 b.const_data_ptr<float>(),
                                 grad_x.mutable_data_ptr<T>(),
                                 extras.branch ? grad_branch.mutable_data_ptr<O>() : nullptr,
                                 extras.normed ? normed.mutable_data_ptr<O>() : nullptr,
                                 C};
    at::parallel_for(0, partials, 1, [&](int64_t first, int64_t last) {
      for (int64_t part = first; part < last; ++part) {
        simd<norm_grad_rows<T, O>>(all, grad_weight + part * C, grad_weight + (partials + part) * C,
                                   part * kRowsOfPartial,
                                   std::min(rows, (part + 1) * kRowsOfPartial));
      }
    });
  });
  const at::Tensor sums = parts.sum(1);
  return {grad_x, grad_branch, sums[0], sums[1], normed};
}

}  // namespace mezzo::kernels
