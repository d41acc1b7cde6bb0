#include "mezzo/kernels/matmul/onednn.h"

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <exception>

#include <ATen/Context.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/cpu/Utils.h>
#include <ATen/ops/ones.h>
#include <ATen/record_function.h>

namespace mezzo::kernels::onednn {
namespace {

// Below this many multiplications the call overhead (about 5 us) outweighs the faster product.
constexpr int64_t kSmallProduct = int64_t{1} << 18;

using LinearSignature = at::Tensor(const at::Tensor&, const at::Tensor&,
                                   const std::optional<at::Tensor>&, c10::string_view,
                                   c10::List<std::optional<at::Scalar>>,
                                   std::optional<c10::string_view>);

// libtorch hides oneDNN's own symbols; this op is the way to its fp32 product. A wheel built
// without oneDNN has none.
const std::optional<c10::TypedOperatorHandle<LinearSignature>>& linear_op() {
  static const auto op = []() -> std::optional<c10::TypedOperatorHandle<LinearSignature>> {
    auto schema = c10::Dispatcher::singleton().findSchema({"mkldnn::_linear_pointwise", ""});
    if (!schema.has_value()) return std::nullopt;
    return schema->typed<LinearSignature>();
  }();
  return op;
}

bool lets_onednn_round_fp32() {
  using at::Float32Precision;
  const auto precision =
      at::globalContext().float32Precision(at::Float32Backend::MKLDNN, at::Float32Op::MATMUL);
  return precision == Float32Precision::BF16 || precision == Float32Precision::TF32;
}

// oneDNN may be held to less than the CPU has (ONEDNN_MAX_CPU_ISA), which only a trial tells.
const std::string& refusal_of_bf16_trial() {
  static const std::string refusal = []() -> std::string {
    if (!linear_op().has_value()) return "";
    const at::RecordFunctionGuard unseen(/*is_enabled=*/false);  // no op of the step that asks
    try {
      const at::Tensor x = at::ones({16, 16}, at::kBFloat16);
      onednn::mm(x, x);
      return "";
    } catch (const std::exception&) {  // oneDNN's own
      return "oneDNN has no bf16 product at the instruction set that it is held to";
    }
  }();
  return refusal;
}

}  // namespace

std::string process_refusal() {
  if (!linear_op().has_value()) return "this libtorch has no oneDNN linear op";
  if (!at::globalContext().userEnabledMkldnn()) return "oneDNN is switched off";
  if (!__builtin_cpu_is("amd")) return "not an AMD CPU: MKL's fp32 product is as fast";
  if (lets_onednn_round_fp32())
    return "the float32 matmul precision in force lets oneDNN round fp32 operands";
  return "";
}

std::string refusal(const at::Tensor& a, const at::Tensor& b) {
  if (a.size(0) * a.size(1) * b.size(1) < kSmallProduct) return "small product";
  return process_refusal();
}

// What libtorch asks of the CPU (mkldnn_bf16_device_check, ATen/native/mkldnn/Utils.h).
std::string bf16_refusal() {
  if (!at::globalContext().userEnabledMkldnn()) return "oneDNN is switched off";
  const bool has_avx512 = __builtin_cpu_supports("avx512vl") &&
                          __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq");
  return has_avx512 ? refusal_of_bf16_trial() : "oneDNN has no bf16 without AVX512";
}

// Names as in oneDNN's cpu_isa_traits.cpp; it ignores their case, and values that it does not know.
bool hides_amx(std::string_view max_cpu_isa) {
  std::string isa(max_cpu_isa);
  std::transform(isa.begin(), isa.end(), isa.begin(),
                 [](unsigned char c) { return std::tolower(c); });
  const bool is_known = isa.starts_with("sse") || isa.starts_with("avx");
  return is_known && isa.find("amx") == std::string::npos;
}

bool fills_tiles() {
  static const bool fills = [] {
    const char* isa = std::getenv("ONEDNN_MAX_CPU_ISA");
    return __builtin_cpu_supports("amx-bf16") && !hides_amx(isa == nullptr ? "" : isa) &&
           at::cpu::init_amx();
  }();
  return fills;
}

std::string bf16_linear_refusal(const at::Tensor& a, const at::Tensor& b) {
  if (!linear_op().has_value()) return "this libtorch has no oneDNN linear op";
  if (const std::string refusal = bf16_refusal(); !refusal.empty()) return refusal;
  if (!__builtin_cpu_supports("avx512bf16")) return "the CPU has no bf16 arithmetic";
  if (!a.is_contiguous() || !b.t().is_contiguous()) return "rows that are not dense";
  return "";
}

at::Tensor mm(const at::Tensor& a, const at::Tensor& b, const std::optional<at::Tensor>& bias) {
  return linear_op()->call(a, b.t(), bias, "none", c10::List<std::optional<at::Scalar>>(),
                           std::nullopt);
}

}  // namespace mezzo::kernels::onednn
