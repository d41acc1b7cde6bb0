#include "mezzo/kernels/matmul/matmul.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <ATen/ops/addmm_cpu_dispatch.h>
#include <ATen/ops/baddbmm_cpu_dispatch.h>
#include <ATen/ops/bmm_cpu_dispatch.h>
#include <ATen/ops/mm_cpu_dispatch.h>

#include "mezzo/base/check.h"
#include "mezzo/base/log.h"
#include "mezzo/kernels/matmul/add_into.h"
#include "mezzo/kernels/matmul/onednn.h"
#include "mezzo/kernels/matmul/tiled.h"

namespace mezzo::kernels {
namespace {

bool both_are(const at::Tensor& a, const at::Tensor& b, at::ScalarType dtype) {
  return a.scalar_type() == dtype && b.scalar_type() == dtype;
}

bool both_widen(const at::Tensor& a, const at::Tensor& b) {
  return a.scalar_type() == b.scalar_type() && widens(a.scalar_type());
}

// Whatever does not form a product is left to libtorch, whose error says what is wrong.
bool forms_product(const at::Tensor& a, const at::Tensor& b) {
  return a.dim() == 2 && b.dim() == 2 && a.size(1) == b.size(0) && a.numel() > 0 && b.numel() > 0;
}

/// Whether `kernel`, whose refusal this is, takes the product; says so where it is asked for.
bool takes(const char* kernel, const at::Tensor& a, const at::Tensor& b,
           const std::string& refusal) {
  if (log_enabled("dispatch")) {
    log("dispatch", fmt::format("{} product {}x{}x{}: {} {}", c10::toString(a.scalar_type()),
                                a.size(0), b.size(1), a.size(1), kernel,
                                refusal.empty() ? "takes it" : "declines: " + refusal));
  }
  return refusal.empty();
}

bool takes_tiles(const at::Tensor& a, const at::Tensor& b) {
  const at::ScalarType dtype = a.scalar_type();
  const bool has_tiles = dtype == at::kFloat || dtype == at::kHalf || dtype == at::kBFloat16;
  return has_tiles && both_are(a, b, dtype) && forms_product(a, b) &&
         takes("Mezzo's tiles", a, b, tiled::refusal(a, b));
}

bool takes_onednn(const at::Tensor& a, const at::Tensor& b) {
  return forms_product(a, b) && takes("oneDNN", a, b, onednn::refusal(a, b));
}

/// What a linear layer with a bias computes: self, a row, in the dtype of the product.
bool is_linear(const at::Tensor& self, const at::Tensor& a, const at::Tensor& b,
               const at::Scalar& beta, const at::Scalar& alpha) {
  return forms_product(a, b) && self.scalar_type() == a.scalar_type() && self.dim() == 1 &&
         self.size(0) == b.size(1) && beta.equal(1.0) && alpha.equal(1.0);
}

at::Tensor widened(const at::Tensor& x) { return x.to(at::kFloat); }

// fp32 only. The row bias is the case of every linear layer, and fits into oneDNN's product.
at::Tensor addmm_fp32(const at::Tensor& self, const at::Tensor& a, const at::Tensor& b,
                      const at::Scalar& beta, const at::Scalar& alpha) {
  if (!takes_onednn(a, b) || self.scalar_type() != at::kFloat)
    return at::cpu::addmm(self, a, b, beta, alpha);
  if (is_linear(self, a, b, beta, alpha)) return onednn::mm(a, b, self);
  at::Tensor product = onednn::mm(a, b);
  if (alpha.toDouble() != 1.0) product.mul_(alpha);
  if (beta.toDouble() != 0.0) product.add_(self, beta);
  return product;
}

// libtorch spreads the bias over the result before the product adds to it: a pass to write, and one
// to read again. oneDNN's product adds it as it writes; both round once.
at::Tensor addmm_bf16(const at::Tensor& self, const at::Tensor& a, const at::Tensor& b,
                      const at::Scalar& beta, const at::Scalar& alpha) {
  if (is_linear(self, a, b, beta, alpha) &&
      takes("oneDNN's linear layer", a, b, onednn::bf16_linear_refusal(a, b)))
    return onednn::mm(a, b, self);
  return at::cpu::addmm(self, a, b, beta, alpha);
}

at::Tensor mm_fp32(const at::Tensor& a, const at::Tensor& b) {
  return takes_onednn(a, b) ? onednn::mm(a, b) : at::cpu::mm(a, b);
}

}  // namespace

bool widens(at::ScalarType dtype) {
  return dtype == at::kHalf || (dtype == at::kBFloat16 && !onednn::bf16_refusal().empty());
}

at::Tensor mm(const at::Tensor& a, const at::Tensor& b) {
  if (takes_tiles(a, b)) return tiled::mm(a, b);
  if (both_widen(a, b)) return mm_fp32(widened(a), widened(b)).to(a.scalar_type());
  if (both_are(a, b, at::kFloat)) return mm_fp32(a, b);
  return at::cpu::mm(a, b);
}

at::Tensor addmm(const at::Tensor& self, const at::Tensor& a, const at::Tensor& b,
                 const at::Scalar& beta, const at::Scalar& alpha) {
  if (is_linear(self, a, b, beta, alpha) && takes_tiles(a, b)) return tiled::mm(a, b, self);
  if (both_widen(a, b) && self.scalar_type() == a.scalar_type()) {
    return addmm_fp32(widened(self), widened(a), widened(b), beta, alpha).to(a.scalar_type());
  }
  if (both_are(a, b, at::kFloat)) return addmm_fp32(self, a, b, beta, alpha);
  if (both_are(a, b, at::kBFloat16)) return addmm_bf16(self, a, b, beta, alpha);
  return at::cpu::addmm(self, a, b, beta, alpha);
}

void add_mm(const at::Tensor& sum, const at::Tensor& a, const at::Tensor& b) {
  MEZZO_CHECK(sum.is_cpu() && a.is_cpu() && b.is_cpu(), "add_mm",
              "sum, a and b must be on a CPU, but are on {}, {} and {}", sum.device().str(),
              a.device().str(), b.device().str());
  MEZZO_CHECK(sum.scalar_type() == at::kFloat && sum.is_contiguous(), "add_mm",
              "sum must be fp32 and contiguous, but is {} with strides [{}]",
              c10::toString(sum.scalar_type()), fmt::join(sum.strides(), ", "));
  MEZZO_CHECK(a.dim() == 2 && b.dim() == 2 && sum.dim() == 2 && sum.size(0) == a.size(0) &&
                  sum.size(1) == b.size(1),
              "add_mm", "sum, a and b must be [M, N], [M, K] and [K, N], but are [{}], [{}], [{}]",
              fmt::join(sum.sizes(), ", "), fmt::join(a.sizes(), ", "), fmt::join(b.sizes(), ", "));
  if (takes_tiles(a, b)) return tiled::add_mm(sum, a, b);
  add_into(sum, both_widen(a, b) ? mm_fp32(widened(a), widened(b)) : kernels::mm(a, b));
}

at::Tensor bmm(const at::Tensor& a, const at::Tensor& b) {
  if (both_widen(a, b)) return at::cpu::bmm(widened(a), widened(b)).to(a.scalar_type());
  return at::cpu::bmm(a, b);
}

at::Tensor baddbmm(const at::Tensor& self, const at::Tensor& a, const at::Tensor& b,
                   const at::Scalar& beta, const at::Scalar& alpha) {
  if (both_widen(a, b) && self.scalar_type() == a.scalar_type()) {
    return at::cpu::baddbmm(widened(self), widened(a), widened(b), beta, alpha).to(a.scalar_type());
  }
  return at::cpu::baddbmm(self, a, b, beta, alpha);
}

}  // namespace mezzo::kernels
