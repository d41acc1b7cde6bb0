#include "mezzo/kernels/matmul/matmul.h"

#include <fmt/format.h>

#include <ATen/ops/addmm_cpu_dispatch.h>
#include <ATen/ops/baddbmm_cpu_dispatch.h>
#include <ATen/ops/bmm_cpu_dispatch.h>
#include <ATen/ops/mm_cpu_dispatch.h>

#include "mezzo/base/log.h"
#include "mezzo/kernels/matmul/onednn.h"

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

bool takes_onednn(const at::Tensor& a, const at::Tensor& b) {
  if (!forms_product(a, b)) return false;
  const std::string refusal = onednn::refusal(a, b);
  if (log_enabled("dispatch")) {
    log("dispatch",
        fmt::format("fp32 mm {}x{}x{}: {}", a.size(0), b.size(1), a.size(1),
                    refusal.empty() ? "oneDNN" : "libtorch, for oneDNN declined: " + refusal));
  }
  return refusal.empty();
}

at::Tensor widened(const at::Tensor& x) { return x.to(at::kFloat); }

// fp32 only. The row bias is the case of every linear layer, and fits into oneDNN's product.
at::Tensor addmm_fp32(const at::Tensor& self, const at::Tensor& a, const at::Tensor& b,
                      const at::Scalar& beta, const at::Scalar& alpha) {
  if (!takes_onednn(a, b) || self.scalar_type() != at::kFloat)
    return at::cpu::addmm(self, a, b, beta, alpha);
  const bool is_plain_sum = beta.toDouble() == 1.0 && alpha.toDouble() == 1.0;
  if (is_plain_sum && self.dim() == 1 && self.size(0) == b.size(1)) return onednn::mm(a, b, self);
  at::Tensor product = onednn::mm(a, b);
  if (alpha.toDouble() != 1.0) product.mul_(alpha);
  if (beta.toDouble() != 0.0) product.add_(self, beta);
  return product;
}

// libtorch spreads the bias over the result before the product adds to it: a pass to write, and one
// to read again. oneDNN's product adds it as it writes; both round once.
at::Tensor addmm_bf16(const at::Tensor& self, const at::Tensor& a, const at::Tensor& b,
                      const at::Scalar& beta, const at::Scalar& alpha) {
  const bool is_linear = forms_product(a, b) && self.scalar_type() == at::kBFloat16 &&
                         self.dim() == 1 && self.size(0) == b.size(1) && beta.toDouble() == 1.0 &&
                         alpha.toDouble() == 1.0;
  const std::string refusal =
      is_linear ? onednn::bf16_linear_refusal(a, b) : "not a linear layer with a bias";
  if (log_enabled("dispatch")) {
    log("dispatch",
        "bf16 addmm: " + (refusal.empty()
                              ? "oneDNN's linear layer"
                              : "libtorch, for oneDNN's linear layer declined: " + refusal));
  }
  return refusal.empty() ? onednn::mm(a, b, self) : at::cpu::addmm(self, a, b, beta, alpha);
}

at::Tensor mm_fp32(const at::Tensor& a, const at::Tensor& b) {
  return takes_onednn(a, b) ? onednn::mm(a, b) : at::cpu::mm(a, b);
}

}  // namespace

bool widens(at::ScalarType dtype) {
  return dtype == at::kHalf || (dtype == at::kBFloat16 && !onednn::bf16_refusal().empty());
}

at::Tensor mm(const at::Tensor& a, const at::Tensor& b) {
  if (both_widen(a, b)) return mm_fp32(widened(a), widened(b)).to(a.scalar_type());
  if (both_are(a, b, at::kFloat)) return mm_fp32(a, b);
  return at::cpu::mm(a, b);
}

at::Tensor addmm(const at::Tensor& self, const at::Tensor& a, const at::Tensor& b,
                 const at::Scalar& beta, const at::Scalar& alpha) {
  if (both_widen(a, b) && self.scalar_type() == a.scalar_type()) {
    return addmm_fp32(widened(self), widened(a), widened(b), beta, alpha).to(a.scalar_type());
  }
  if (both_are(a, b, at::kFloat)) return addmm_fp32(self, a, b, beta, alpha);
  if (both_are(a, b, at::kBFloat16)) return addmm_bf16(self, a, b, beta, alpha);
  return at::cpu::addmm(self, a, b, beta, alpha);
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
