// The pytorch-* policies against libtorch itself: the lists by name, and what comes out of every
// op.

#include <fstream>
#include <iterator>
#include <map>
#include <set>

#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <ATen/autocast_mode.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/csrc/jit/serialization/pickle.h>
#include <torch/version.h>

#include "mezzo/amp/autocast.h"
#include "mezzo/amp/cast_policy.h"
#include "mezzo/amp/cast_table.h"
#include "tests/testing.h"

namespace mezzo {
namespace {

constexpr bool kIsPinnedTorch = TORCH_VERSION_MAJOR == 2 && TORCH_VERSION_MINOR == 11;

std::set<std::string> registered(c10::DispatchKey key) {
  std::set<std::string> names;
  for (const auto& name : c10::Dispatcher::singleton().getRegistrationsForDispatchKey(key)) {
    if (!name.name.starts_with("aten::")) continue;
    names.insert(name.name.substr(6) +
                 (name.overload_name.empty() ? "" : "." + name.overload_name));
  }
  return names;
}

// Before any Autocast has put Mezzo's kernels there.
const std::set<std::string> kCpuList = registered(c10::DispatchKey::AutocastCPU);
const std::set<std::string> kCudaList = registered(c10::DispatchKey::Autocast);

std::set<std::string> listed(std::optional<CastRule> CastTableRow::*list) {
  std::set<std::string> names;
  for (const CastTableRow& row : cast_table()) {
    if ((row.*list).has_value()) names.emplace(row.op);
  }
  return names;
}

TEST(CastLists, NameTheOpsOfLibtorchsCpuList) {
  if (!kIsPinnedTorch) GTEST_SKIP() << "the lists are those of libtorch 2.11";
  EXPECT_EQ(listed(&CastTableRow::pytorch_cpu), kCpuList);
}

TEST(CastLists, NameTheOpsOfLibtorchsCudaList) {
  if (!kIsPinnedTorch) GTEST_SKIP() << "the lists are those of libtorch 2.11";
  std::set<std::string> expected = kCudaList;
  expected.erase("_cudnn_rnn");  // casts a list of weights into one buffer: not a rule's work
  EXPECT_EQ(listed(&CastTableRow::pytorch_cuda), expected);
}

// libtorch's own list macros, expanded into names.
template <class... Overload>
std::string listed_name(const char* op, Overload... overload) {
  std::string name = op;
  (name.append(".").append(overload), ...);
  return name;
}
#define MEZZO_STRING(x) #x
#define MEZZO_LISTED_1(op) listed_name(#op),
#define MEZZO_LISTED_2(op, overload) listed_name(#op, #overload),
#define MEZZO_PICK(a, b, name, ...) name
#define MEZZO_LISTED(...) MEZZO_PICK(__VA_ARGS__, MEZZO_LISTED_2, MEZZO_LISTED_1)(__VA_ARGS__)

TEST(CastLists, GiveTheRulesOfLibtorchsCudaMacros) {
  const std::map<CastRule, std::vector<std::string>> macros = {
      {CastRule::kLower, {AT_FORALL_LOWER_PRECISION_FP(MEZZO_LISTED)}},
      {CastRule::kFp32, {AT_FORALL_FP32(MEZZO_LISTED)}},
      {CastRule::kFp32SetDtype, {AT_FORALL_FP32_SET_OPT_DTYPE(MEZZO_LISTED)}},
      {CastRule::kPromote, {AT_FORALL_PROMOTE(MEZZO_LISTED)}},
  };
  const CastPolicy policy = CastPolicy::pytorch_cuda();
  for (const auto& [rule, ops] : macros) {
    for (const std::string& op : ops) {
      if (!kIsPinnedTorch && !policy.rule(op, at::kCUDA).has_value()) continue;
      EXPECT_EQ(policy.rule(op, at::kCUDA), rule) << op;
    }
  }
}

// What comes out of an op: the dtypes of its tensors, or its refusal.
std::string outcome(const c10::OperatorHandle& op, std::vector<c10::IValue> arguments) {
  try {
    op.schema().checkAndNormalizeInputs(arguments);
    op.callBoxed(&arguments);
  } catch (const std::exception&) {
    return "refused";
  }
  std::string dtypes;
  const auto add = [&](const at::Tensor& t) {
    dtypes += t.defined() ? std::string(c10::toString(t.scalar_type())) + " " : "none ";
  };
  for (const c10::IValue& value : arguments) {
    if (value.isTensor()) add(value.toTensor());
    if (value.isTensorList()) {
      for (const at::Tensor& tensor : value.toTensorVector()) add(tensor);
    }
  }
  return dtypes;
}

// Tensors on the device, those of fp32 in `dtype`.
c10::IValue as(const c10::IValue& value, at::ScalarType dtype, at::DeviceType device) {
  const auto moved = [&](const at::Tensor& tensor) {
    return tensor.to(device, tensor.scalar_type() == at::kFloat ? dtype : tensor.scalar_type());
  };
  if (value.isTensor() && value.toTensor().defined()) return moved(value.toTensor());
  if (value.isTensorList()) {
    std::vector<at::Tensor> tensors = value.toTensorVector();
    for (at::Tensor& tensor : tensors) tensor = moved(tensor);
    return tensors;
  }
  return value;
}

struct Case {
  explicit Case(std::string name) : op(std::move(name)) {}
  std::string op;
  std::vector<c10::IValue> arguments;
};

// A pickle knows lists of anything; a schema asks for a list of one type.
c10::IValue typed(const c10::IValue& value) {
  if (!value.isList() || value.toListRef().empty()) return value;
  const auto items = value.toListRef();
  if (items.front().isTensor()) {
    std::vector<at::Tensor> tensors;
    for (const c10::IValue& item : items) tensors.push_back(item.toTensor());
    return tensors;
  }
  std::vector<int64_t> numbers;
  for (const c10::IValue& item : items) numbers.push_back(item.toInt());
  return numbers;
}

std::vector<Case> cases() {
  std::ifstream file(MEZZO_TEST_DATA "/autocast_cases.pt", std::ios::binary);
  const std::vector<char> bytes{std::istreambuf_iterator<char>(file), {}};
  std::vector<Case> result;
  const c10::IValue list = torch::jit::pickle_load(bytes);
  for (const c10::IValue& item : list.toListRef()) {
    const auto& parts = item.toTupleRef().elements();
    const auto& arguments = parts[1].toTupleRef().elements();
    Case& c = result.emplace_back(parts[0].toStringRef());
    for (const c10::IValue& argument : arguments) c.arguments.push_back(typed(argument));
  }
  return result;
}

// None only for an op of libtorch 2.11 that a later libtorch has dropped.
std::optional<c10::OperatorHandle> find_op(const std::string& op) {
  const size_t dot = op.find('.');
  const auto handle = c10::Dispatcher::singleton().findSchema(
      {"aten::" + op.substr(0, dot), dot == std::string::npos ? "" : op.substr(dot + 1)});
  EXPECT_TRUE(handle.has_value() || !kIsPinnedTorch) << op;
  return handle;
}

/// libtorch's own autocast, without Mezzo.
class LibtorchAutocast {
 public:
  LibtorchAutocast(at::DeviceType device, at::ScalarType dtype)
      : device_(device), outer_(at::autocast::get_autocast_dtype(device)) {
    at::autocast::set_autocast_enabled(device_, true);
    at::autocast::set_autocast_dtype(device_, dtype);
  }
  ~LibtorchAutocast() {
    at::autocast::set_autocast_enabled(device_, false);
    at::autocast::set_autocast_dtype(device_, outer_);
    at::autocast::clear_cache();
  }

 private:
  at::DeviceType device_;
  at::ScalarType outer_;
};

class EveryOp : public ::testing::TestWithParam<at::ScalarType> {};

/// Runs each op under libtorch's autocast and under the policy and compares what comes out; returns
/// the ops that could run.
std::set<std::string> compare_with_libtorch(const CastPolicy& policy, at::DeviceType device,
                                            at::ScalarType region) {
  std::set<std::string> executed;
  for (const Case& c : cases()) {
    const std::optional<c10::OperatorHandle> op = find_op(c.op);
    if (!op) continue;
    for (const at::ScalarType input : {at::kFloat, at::kBFloat16, at::kHalf, at::kDouble}) {
      std::vector<c10::IValue> arguments;
      for (const c10::IValue& argument : c.arguments)
        arguments.push_back(as(argument, input, device));
      std::string expected, actual;
      {
        const LibtorchAutocast autocast(device, region);
        expected = outcome(*op, arguments);
      }
      {
        const CastPolicyGuard guard(policy);
        const Autocast autocast(device, region);
        actual = outcome(*op, arguments);
      }
      // libtorch refuses to promote its region's other 16-bit type; Mezzo promotes it.
      const bool is_promoted = policy.rule(c.op, device) == CastRule::kPromote;
      if (is_promoted && expected == "refused") continue;
      EXPECT_EQ(actual, expected) << c.op << " of " << c10::toString(input);
      if (actual != "refused") executed.insert(c.op);
    }
  }
  return executed;
}

TEST_P(EveryOp, ComesOutOfThePytorchCpuPolicyAsOutOfLibtorchsAutocast) {
  const std::set<std::string> executed =
      compare_with_libtorch(CastPolicy::pytorch_cpu(), at::kCPU, GetParam());
  // What is on the list and cannot run: named tensors, which the op refuses or which no pickle
  // holds. And oneDNN's RNN layer, which not every CPU has in every type.
  const std::set<std::string> without_case = {"index_copy.dimname", "prod.dim_Dimname",
                                              "mkldnn_rnn_layer"};
  for (const std::string& op : listed(&CastTableRow::pytorch_cpu)) {
    if (!find_op(op)) continue;
    EXPECT_TRUE(executed.contains(op) || without_case.contains(op)) << op << " was not executed";
  }
}

TEST_P(EveryOp, ComesOutOfThePytorchCudaPolicyAsOutOfLibtorchsAutocastOnAGpu) {
  if (!at::globalContext().hasCUDA()) GTEST_SKIP() << "no GPU here";
  const std::set<std::string> executed =
      compare_with_libtorch(CastPolicy::pytorch_cuda(), at::kCUDA, GetParam());
  EXPECT_GT(executed.size(), 100);
}

TEST_P(EveryOp, ComesOutOfThePytorchCudaPolicyAsItsRuleSays) {
  for (const Case& c : cases()) {
    const std::optional<c10::OperatorHandle> op = find_op(c.op);
    if (!op) continue;
    const std::optional<CastRule> rule = CastPolicy::pytorch_cuda().rule(c.op, at::kCPU);
    if (rule != CastRule::kLower && rule != CastRule::kFp32 && rule != CastRule::kFp32SetDtype &&
        rule != CastRule::kFp32AppendDtype)
      continue;
    // From the other type than the one that must come out.
    const at::ScalarType from = rule == CastRule::kLower ? at::kFloat : GetParam();
    const at::ScalarType to = rule == CastRule::kLower ? GetParam() : at::kFloat;
    std::vector<c10::IValue> arguments;
    for (const c10::IValue& argument : c.arguments)
      arguments.push_back(as(argument, from, at::kCPU));
    const CastPolicyGuard guard(CastPolicy::pytorch_cuda());
    const Autocast autocast(at::kCPU, GetParam());
    const std::string dtypes = outcome(*op, arguments);
    if (dtypes == "refused") continue;  // no such kernel on a CPU
    EXPECT_TRUE(dtypes.starts_with(c10::toString(to))) << c.op << " gave " << dtypes;
  }
}

INSTANTIATE_TEST_SUITE_P(Types, EveryOp, ::testing::Values(at::kBFloat16, at::kHalf),
                         [](const auto& test) { return std::string(c10::toString(test.param)); });

}  // namespace
}  // namespace mezzo
