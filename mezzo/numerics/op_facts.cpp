#include "mezzo/numerics/op_facts.h"

#include <array>
#include <memory>
#include <mutex>
#include <set>
#include <string_view>
#include <unordered_map>

#include <ATen/core/enum_tag.h>

namespace mezzo::numerics {
namespace {

constexpr std::array<std::string_view, 4> kOverwriters = {"copy", "fill", "zero", "set"};

bool overwrites_self(const std::string& base, bool is_random) {
  for (const std::string_view name : kOverwriters) {
    if (base == name) return true;
  }
  return is_random && base != "dropout" && base != "rrelu" && base != "rrelu_with_noise";
}

std::unique_ptr<OpFacts> make_facts(const c10::OperatorHandle& handle) {
  const c10::FunctionSchema& schema = handle.schema();
  const std::string base = base_name(schema.name());
  auto facts = std::make_unique<OpFacts>(OpFacts{handle, schema.name(), {}, {}});
  facts->is_random = handle.hasTag(at::Tag::nondeterministic_seeded);
  facts->is_pointwise = handle.hasTag(at::Tag::pointwise);
  facts->leaves_garbage =
      base.starts_with("empty") || base.starts_with("new_empty") || base.starts_with("resize");
  const bool takes_shape_alone = base.ends_with("_like") || base.starts_with("new_");
  bool is_first = true;
  for (const c10::Argument& argument : schema.arguments()) {
    const bool writes = argument.alias_info() != nullptr && argument.alias_info()->isWrite();
    const bool overwrites =
        writes && (argument.is_out() || (is_first && overwrites_self(base, facts->is_random)));
    facts->writes.push_back(writes);
    facts->reads.push_back(!overwrites && !(is_first && takes_shape_alone));
    is_first = false;
  }
  facts->is_view = base == "set";
  for (const c10::Argument& result : schema.returns()) {
    if (result.alias_info() != nullptr && !result.alias_info()->isWrite()) facts->is_view = true;
  }
  return facts;
}

}  // namespace

std::string base_name(const std::string& op) {
  const size_t colons = op.rfind("::");
  std::string name = colons == std::string::npos ? op : op.substr(colons + 2);
  while (name.ends_with('_')) name.pop_back();
  return name;
}

bool is_lowered(const std::string& op) {
  static const std::set<std::string> lowered = {"_addmm_activation",
                                                "_convolution",
                                                "_native_multi_head_attention",
                                                "_scaled_dot_product_flash_attention",
                                                "_thnn_fused_gru_cell",
                                                "_thnn_fused_lstm_cell",
                                                "addbmm",
                                                "addmm",
                                                "addmv",
                                                "addr",
                                                "attention_linear",
                                                "baddbmm",
                                                "bmm",
                                                "chain_matmul",
                                                "conv1d",
                                                "conv2d",
                                                "conv3d",
                                                "conv_tbc",
                                                "conv_transpose1d",
                                                "conv_transpose2d",
                                                "conv_transpose3d",
                                                "convolution",
                                                "cudnn_convolution",
                                                "cudnn_convolution_transpose",
                                                "einsum",
                                                "gelu_linear",
                                                "gru_cell",
                                                "linalg_multi_dot",
                                                "linalg_vecdot",
                                                "linear",
                                                "linear_cross_entropy",
                                                "lstm_cell",
                                                "matmul",
                                                "mkldnn_rnn_layer",
                                                "mm",
                                                "mv",
                                                "prelu",
                                                "residual_norm_linear",
                                                "residual_rms_norm_linear",
                                                "rnn_relu_cell",
                                                "rnn_tanh_cell",
                                                "scaled_dot_product_attention",
                                                "swiglu_linear"};
  return lowered.contains(base_name(op));
}

bool is_copy(const OpFacts& op) {
  const std::string base = base_name(op.name);
  return base == "_to_copy" || base == "copy" || base == "clone";
}

const OpFacts* OpFacts::of(const at::RecordFunction& function) {
  static std::mutex mutex;
  static auto& known = *new std::unordered_map<c10::OperatorName, std::unique_ptr<OpFacts>>();
  const std::optional<c10::OperatorName> name = function.operator_name();
  if (!name.has_value()) return nullptr;
  const std::scoped_lock lock(mutex);
  auto& facts = known[*name];
  if (facts == nullptr) {
    const auto handle = c10::Dispatcher::singleton().findSchema(*name);
    if (!handle.has_value()) return nullptr;
    facts = make_facts(*handle);
  }
  return facts.get();
}

}  // namespace mezzo::numerics
