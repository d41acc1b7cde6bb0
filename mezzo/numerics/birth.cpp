#include "mezzo/numerics/birth.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string_view>

#include <fmt/format.h>

#include <ATen/ExpandUtils.h>
#include <ATen/ops/isfinite.h>

#include "mezzo/base/float_format.h"
#include "mezzo/base/ivalue_tensors.h"
#include "mezzo/numerics/ledger.h"

namespace mezzo::numerics {
namespace {

using Names = std::initializer_list<std::string_view>;

bool is_one_of(const std::string& name, Names names) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

bool is_softmax(const std::string& base) {
  return base.find("softmax") != std::string::npos || base == "logsumexp" ||
         base.find("scaled_dot_product") != std::string::npos;
}

bool is_choice(const std::string& base) {
  return is_one_of(base, {"gather", "index", "index_select", "take", "take_along_dim"}) ||
         base.find("nll_loss") != std::string::npos ||
         base.find("cross_entropy") != std::string::npos;
}

// fp8 and complex numbers have no format to be measured by.
bool is_measured(const at::Tensor& tensor) {
  return tensor.defined() && !tensor.is_complex() && tensor.is_floating_point() &&
         tensor.element_size() >= 2;
}

std::vector<int64_t> unravel(int64_t flat, at::IntArrayRef sizes) {
  std::vector<int64_t> index(sizes.size());
  for (size_t i = sizes.size(); i-- > 0;) {
    index[i] = flat % sizes[i];
    flat /= sizes[i];
  }
  return index;
}

// The index of the first true one.
std::vector<int64_t> first_of(const at::Tensor& is_it) {
  return unravel(is_it.flatten().to(at::kByte).argmax().item<int64_t>(), is_it.sizes());
}

at::Tensor is_bad(const at::Tensor& tensor) {
  const bool has_few_ops = tensor.element_size() < 2;  // fp8
  return at::isfinite(has_few_ops ? tensor.to(at::kFloat) : tensor).logical_not();
}

double element_at(const at::Tensor& tensor, at::IntArrayRef index) {
  at::Tensor element = tensor;
  for (const int64_t i : index) element = element.select(0, i);
  return element.to(at::kDouble).item<double>();
}

at::Tensor in_fp64(const at::Tensor& tensor) {
  if (!tensor.is_floating_point() && !tensor.is_complex()) return tensor;
  return tensor.to(tensor.is_complex() ? at::kComplexDouble : at::kDouble, false, true);
}

// An attention without dropout is tagged as if it had one.
bool draws(const Call& call) {
  const auto& arguments = call.op.handle.schema().arguments();
  for (size_t i = 0; i < arguments.size(); ++i) {
    const c10::IValue& value = call.arguments[i];
    if (arguments[i].name() == "dropout_p" && value.isDouble() && value.toDouble() == 0.0)
      return false;
  }
  return call.op.is_random;
}

// To call it again would be to wait for other ranks that do not.
bool communicates(const Call& call) { return call.op.name.find("c10d") != std::string::npos; }

bool names_dtype(const c10::Argument& argument) {
  return argument.name() == "dtype" || argument.name() == "out_dtype";
}

std::shared_ptr<const Magnitudes> shared_magnitudes(const at::Tensor& tensor) {
  return std::make_shared<const Magnitudes>(magnitudes_of(std::vector<at::Tensor>{tensor}));
}

// exact: the op's results in fp64, as many as could be had.
void measure(Birth& birth, const Call& call, const std::vector<at::Tensor>& exact) {
  birth.magnitudes = shared_magnitudes(call.results[birth.output]);
  if (birth.output < exact.size() && is_measured(exact[birth.output]))
    birth.exact_magnitudes = shared_magnitudes(exact[birth.output]);
}

std::vector<Operand> operands_of(const Call& call, at::IntArrayRef element, at::IntArrayRef sizes) {
  std::vector<Operand> operands;
  for_each_tensor(call.arguments, [&](size_t argument, const at::Tensor& tensor) {
    if (!is_measured(tensor) || !call.op.reads[argument]) return;
    Operand operand;
    operand.name = call.op.handle.schema().arguments()[argument].name();
    operand.dtype = tensor.scalar_type();
    operand.sizes = tensor.sizes().vec();
    operand.largest = kernels::tensor_stats(tensor).largest;
    operand.magnitudes = shared_magnitudes(tensor);
    if (call.op.is_pointwise && at::is_expandable_to(tensor.sizes(), sizes))
      operand.value = element_at(tensor.expand(sizes), element);
    operands.push_back(std::move(operand));
  });
  return operands;
}

bool is_empty_reduction(const Call& call, const Birth& birth, const std::string& base) {
  bool has_elements = false, is_finite = true;
  for_each_tensor(call.arguments, [&](size_t, const at::Tensor& tensor) {
    if (!is_measured(tensor)) return;
    has_elements |= tensor.numel() > 0;
    is_finite &= kernels::tensor_stats(tensor).non_finite() == 0;
  });
  if (!has_elements) return true;
  // Of finite numbers such a mean is NaN only where no target counts.
  const bool is_loss =
      base.find("nll_loss") != std::string::npos || base.find("cross_entropy") != std::string::npos;
  return is_loss && is_finite && std::isnan(birth.value);
}

double largest_operand(const Birth& birth) {
  double largest = 0.0;
  for (const Operand& operand : birth.operands) largest = std::max(largest, operand.largest);
  return largest;
}

bool reads_intended(const OpRecord& record) {
  for (const TensorFacts& input : record.inputs) {
    if (input.intended != 0) return true;
  }
  return false;
}

Cause cause_of(const Call& call, const OpRecord& record, const Birth& birth, at::ScalarType dtype) {
  const std::string base = base_name(call.op.name);
  const double exact = birth.exact.value_or(std::numeric_limits<double>::quiet_NaN());
  if (birth.exact.has_value() && std::isfinite(exact)) {
    return std::abs(exact) > float_format(dtype).max ? Cause::kOverflow : Cause::kInnerOverflow;
  }
  if (reads_intended(record)) {
    if (std::isnan(birth.value) && (is_softmax(base) || is_one_of(base, {"sub", "rsub"})))
      return Cause::kMaskedRow;
    if (is_choice(base)) return Cause::kMaskedChoice;
  }
  if (is_empty_reduction(call, birth, base)) return Cause::kEmptyReduction;
  if (!birth.exact.has_value()) return std::isnan(birth.value) ? Cause::kInvalid : Cause::kOverflow;
  if (std::isnan(exact)) return Cause::kInvalid;
  // Infinite in fp64 too: a pole, or beyond even that.
  const bool grows =
      is_one_of(base, {"exp", "expm1", "exp2", "sinh", "cosh"}) || largest_operand(birth) > 1e150;
  return grows ? Cause::kOverflow : Cause::kDivisionByZero;
}

}  // namespace

std::vector<int64_t> first_non_finite(const at::Tensor& tensor) { return first_of(is_bad(tensor)); }

std::vector<at::Tensor> results_in_fp64(const Call& call) {
  if (draws(call) || communicates(call)) return {};
  const auto& schema = call.op.handle.schema();
  torch::jit::Stack stack;
  for (size_t i = 0; i < call.arguments.size(); ++i) {
    const c10::IValue& value = call.arguments[i];
    if (names_dtype(schema.arguments()[i]) && value.isInt() &&
        at::isFloatingType(value.toScalarType())) {
      stack.emplace_back(at::kDouble);
    } else if (schema.arguments()[i].name() == "half_to_float") {
      stack.emplace_back(false);
    } else {
      stack.push_back(map_tensors(value, in_fp64));
    }
  }
  std::vector<at::Tensor> results;
  try {
    call.op.handle.callBoxed(stack);
    for_each_tensor(stack, [&](size_t, const at::Tensor& tensor) {
      if (tensor.is_floating_point() || tensor.is_complex()) results.push_back(tensor);
    });
  } catch (const std::exception&) {
    return {};  // not every op has a kernel for fp64
  }
  return results;
}

namespace {

at::Tensor bad_and_exactly_finite(const at::Tensor& bad, const at::Tensor& exact) {
  return at::isfinite(exact).logical_and(is_bad(bad));
}

Birth examine_bad(const Call& call, const OpRecord& record) {
  Birth birth;
  while (birth.output + 1 < call.results.size() &&
         kinds_of(record.outputs[birth.output].stats) == 0)
    ++birth.output;
  const at::Tensor bad = call.results[birth.output];
  const std::vector<at::Tensor> exact = results_in_fp64(call);
  const bool is_known = birth.output < exact.size() && exact[birth.output].sizes() == bad.sizes();
  const at::Tensor is_own =
      is_known ? bad_and_exactly_finite(bad, exact[birth.output]) : at::Tensor();
  const bool has_own = is_known && is_own.any().item<bool>();
  if (!is_measured(bad)) {
    if (has_own) birth.cause = Cause::kOverflow;
    return birth;
  }
  measure(birth, call, exact);
  // Beside those of a mask it is the op's own that counts.
  birth.element = has_own && reads_intended(record) ? first_of(is_own) : first_non_finite(bad);
  birth.value = element_at(bad, birth.element);
  if (is_known) birth.exact = element_at(exact[birth.output], birth.element);
  birth.operands = operands_of(call, birth.element, bad.sizes());
  birth.cause = cause_of(call, record, birth, bad.scalar_type());
  if (record.rounded_scalar.has_value()) birth.note = record.rounded_scalar->note;
  return birth;
}

constexpr double kNearlyAll = 0.9;
constexpr double kFew = 0.5;
constexpr double kUnmoved = 0.99;

bool may_underflow(const OpRecord& record) {
  if (record.direction != Direction::kBackward || record.outputs.empty()) return false;
  const TensorFacts& out = record.outputs.front();
  if (!has_16_bits(out.dtype) || share_of_zeros(out.stats) < kNearlyAll) return false;
  bool reads = false;
  for (const TensorFacts& input : record.inputs) {
    if (share_of_zeros(input.stats) > kFew) return false;
    reads |= input.stats.numel > 0;
  }
  return reads;
}

std::optional<Birth> find_underflow(const Call& call, const OpRecord& record) {
  if (!may_underflow(record)) return std::nullopt;
  const std::vector<at::Tensor> exact = results_in_fp64(call);
  if (exact.empty() || share_of_zeros(kernels::tensor_stats(exact.front())) > kFew)
    return std::nullopt;
  Birth birth;
  birth.cause = Cause::kUnderflow;
  birth.element.assign(record.outputs.front().sizes.size(), 0);
  birth.operands = operands_of(call, birth.element, record.outputs.front().sizes);
  birth.exact = kernels::tensor_stats(exact.front()).largest;
  measure(birth, call, exact);
  return birth;
}

int64_t distinct(const at::Tensor& numbers) {
  const at::Tensor sorted = std::get<0>(numbers.flatten().to(at::kDouble).sort());
  const int64_t N = sorted.numel();
  if (N < 2) return N;
  return 1 + sorted.slice(0, 1).ne(sorted.slice(0, 0, N - 1)).sum().item<int64_t>();
}

constexpr int64_t kMostIntegers = 1 << 20;

// Positions: integers, none twice. Other numbers may well be rounded.
bool are_positions(const at::Tensor& exact) {
  return exact.numel() > 2 && exact.numel() <= kMostIntegers &&
         exact.eq(exact.round()).all().item<bool>() && distinct(exact) == exact.numel();
}

// To tell activations, which are cast all the time, from positions before anything is sorted.
bool begins_with_integers(const at::Tensor& tensor) {
  at::Tensor beginning = tensor;
  while (beginning.dim() > 1) beginning = beginning.select(0, 0);
  if (beginning.dim() == 1) beginning = beginning.slice(0, 0, 256);
  return beginning.eq(beginning.round()).all().item<bool>();
}

bool makes_positions(const OpFacts& op) {
  return is_one_of(base_name(op.name), {"arange", "range", "linspace", "cumsum", "_to_copy", "to",
                                        "copy", "convert_element_type"});
}

std::optional<Birth> find_collision(const Call& call, const OpRecord& record) {
  if (record.outputs.size() != 1 || !has_16_bits(record.outputs.front().dtype) ||
      record.direction != Direction::kForward || !makes_positions(call.op))
    return std::nullopt;
  const at::Tensor got = call.results.front();
  if (!begins_with_integers(got)) return std::nullopt;
  const int64_t fewer = got.numel() > kMostIntegers ? got.numel() : distinct(got);
  if (fewer == got.numel()) return std::nullopt;
  const std::vector<at::Tensor> exact = results_in_fp64(call);
  if (exact.empty() || exact.front().sizes() != got.sizes() || !are_positions(exact.front()))
    return std::nullopt;
  Birth birth;
  birth.cause = Cause::kCollidingIntegers;
  birth.element = first_of(got.to(at::kDouble).ne(exact.front()));
  birth.value = element_at(got, birth.element);
  birth.exact = element_at(exact.front(), birth.element);
  measure(birth, call, exact);
  birth.operands = operands_of(call, birth.element, got.sizes());
  birth.note = fmt::format("{} different integers became {} numbers", got.numel(), fewer);
  return birth;
}

double share_equal(const at::Tensor& a, const at::Tensor& b) {
  return static_cast<double>(a.eq(b).sum().item<int64_t>()) / static_cast<double>(a.numel());
}

// What the call found in the tensor that it changed in place and left as `result`.
at::Tensor argument_of(const Call& call, size_t result) {
  size_t written = 0;
  at::Tensor found;
  for_each_tensor(call.arguments, [&](size_t argument, const at::Tensor& tensor) {
    if (call.op.writes[argument] && call.op.reads[argument] && written++ == result) found = tensor;
  });
  return found;
}

std::optional<Birth> find_lost_update(const Call& call, const OpRecord& record) {
  if (record.direction != Direction::kOptimizer) return std::nullopt;
  for (size_t i = 0; i < call.results.size(); ++i) {
    const at::Tensor& after = call.results[i];
    const at::Tensor before = argument_of(call, i);
    if (!has_16_bits(after.scalar_type()) || !before.defined() || before.numel() == 0 ||
        before.sizes() != after.sizes() || share_equal(before, after) < kUnmoved)
      continue;
    const std::vector<at::Tensor> exact = results_in_fp64(call);
    if (i >= exact.size() || share_equal(exact[i], before.to(at::kDouble)) > kFew) continue;
    Birth birth;
    birth.cause = Cause::kLostUpdate;
    birth.output = i;
    birth.element.assign(static_cast<size_t>(after.dim()), 0);
    birth.value = element_at(after, birth.element);
    birth.exact = element_at(exact[i], birth.element);
    measure(birth, call, exact);
    birth.operands = operands_of(call, birth.element, after.sizes());
    return birth;
  }
  return std::nullopt;
}

std::optional<Birth> examine_finite(const Call& call, const OpRecord& record) {
  if (call.results.empty() || call.results.front().numel() == 0) return std::nullopt;
  if (const auto birth = find_underflow(call, record)) return birth;
  if (const auto birth = find_lost_update(call, record)) return birth;
  return find_collision(call, record);
}

}  // namespace

std::optional<Birth> examine(const Call& call, const OpRecord& record) {
  const bool is_bad = std::any_of(record.outputs.begin(), record.outputs.end(),
                                  [](const TensorFacts& output) { return output.kinds != 0; });
  return is_bad ? examine_bad(call, record) : examine_finite(call, record);
}

}  // namespace mezzo::numerics
