#include "mezzo/numerics/diagnosis.h"

#include <cmath>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "mezzo/base/float_format.h"

namespace mezzo::numerics {
namespace {

std::string name_of(at::ScalarType dtype) {
  switch (dtype) {
    case at::kDouble:
    case at::kFloat:
    case at::kHalf:
    case at::kBFloat16:
      return std::string(float_format(dtype).name);
    default:
      return c10::toString(dtype);
  }
}

// A NaN has a sign that says nothing.
double plain(double value) { return std::isnan(value) ? std::abs(value) : value; }

std::string location(const Finding& finding) {
  std::string where = to_string(finding.direction);
  if (finding.is_recomputed) where += ", run again by a checkpoint,";
  if (!finding.module.empty()) {
    where += " of " + finding.module;
  } else if (!finding.parameter.empty()) {
    where += ", near " + finding.parameter;
  }
  if (finding.micro_batch > 1) where += fmt::format(", micro-batch {}", finding.micro_batch);
  return where;
}

std::string element_line(const Finding& finding) {
  std::vector<std::string> facts;
  if (!finding.element.empty() || finding.exact.has_value()) {
    const std::string name = finding.cause == Cause::kExternal ? finding.external : "result";
    facts.push_back(
        fmt::format("{}[{}] = {}{}", name, fmt::join(finding.element, ", "), plain(finding.value),
                    finding.exact ? fmt::format(", exactly {:.4g}", plain(*finding.exact)) : ""));
  }
  if (finding.bad_elements > 0) {
    const bool is_complex = c10::isComplexType(finding.dtype);
    int64_t all = is_complex ? 2 : 1;
    for (const int64_t size : finding.sizes) all *= size;
    facts.push_back(fmt::format("{} of {}{} are not finite", finding.bad_elements, all,
                                is_complex ? " real and imaginary parts" : ""));
  }
  if (finding.sample.has_value())
    facts.push_back(fmt::format("sample {} of the batch", *finding.sample));
  return fmt::format("{}", fmt::join(facts, "; "));
}

std::string ratio_line(const Finding& finding) {
  if (finding.cause != Cause::kOverflow || !finding.exact.has_value()) return "";
  const double max = float_format(finding.dtype).max;
  return fmt::format("{:.3g} times the largest number of {}, {:g}", std::abs(*finding.exact) / max,
                     name_of(finding.dtype), max);
}

void append(std::string& text, const std::string& label, const std::string& line) {
  if (!line.empty()) text += fmt::format("  {:<8} {}\n", label, line);
}

std::string operand_line(const Operand& operand) {
  std::string line =
      fmt::format("{} [{}] {}, largest {:.4g}", operand.name, fmt::join(operand.sizes, ", "),
                  name_of(operand.dtype), operand.largest);
  if (operand.value.has_value()) line += fmt::format(", there {:.6g}", *operand.value);
  return line;
}

std::string finding_text(const Finding& finding) {
  std::string text = headline(finding) + "\n";
  if (!finding.node.empty())
    append(text, "node",
           finding.node + (finding.forward_op.empty() ? "" : " of " + finding.forward_op));
  append(text, "element", element_line(finding));
  append(text, "", ratio_line(finding));
  for (const Operand& operand : finding.operands) append(text, "reads", operand_line(operand));
  append(text, "note", finding.note);
  if (finding.is_swallowed)
    append(text, "", "nothing became non-finite by it, but the step is wrong");
  if (!finding.chain.empty())
    append(text, "then", fmt::format("{}", fmt::join(finding.chain, " -> ")));
  if (finding.alike > 0) append(text, "", fmt::format("and {} more places alike", finding.alike));
  return text;
}

std::string text_without_finding(const Diagnosis& diagnosis) {
  if (!diagnosis.not_finite.empty())
    return fmt::format("not finite ({}), and no op found in {}",
                       fmt::join(diagnosis.not_finite, ", "), diagnosis.ops);
  return std::isnan(diagnosis.loss) ? fmt::format("nothing found in {} ops", diagnosis.ops)
                                    : fmt::format("nothing found: loss {}", diagnosis.loss);
}

std::string remedy_text(const Remedy& remedy) {
  std::string text = fmt::format("{} {}: {}\n", remedy.is_proved ? "proved    " : "not proved",
                                 remedy.change, remedy.outcome);
  if (remedy.is_proved && !remedy.advice.empty())
    text += fmt::format("           {}\n", remedy.advice);
  return text;
}

}  // namespace

std::string to_string(Cause cause) {
  switch (cause) {
    case Cause::kOverflow:
      return "overflow";
    case Cause::kInnerOverflow:
      return "overflow within the op";
    case Cause::kDivisionByZero:
      return "division by zero";
    case Cause::kInvalid:
      return "invalid operation";
    case Cause::kEmptyReduction:
      return "mean over nothing";
    case Cause::kMaskedRow:
      return "row with every entry masked";
    case Cause::kMaskedChoice:
      return "masked entry chosen";
    case Cause::kUnderflow:
      return "underflow";
    case Cause::kLostUpdate:
      return "lost update";
    case Cause::kCollidingIntegers:
      return "integers that collide";
    case Cause::kExternal:
      return "not finite before the step";
    case Cause::kUninitialized:
      return "uninitialised memory";
    case Cause::kUnseenKernel:
      return "written by code that is no op";
    case Cause::kError:
      return "error";
  }
  return "";
}

std::string to_string(Direction direction) {
  switch (direction) {
    case Direction::kForward:
      return "forward";
    case Direction::kBackward:
      return "backward";
    case Direction::kOptimizer:
      return "optimizer";
  }
  return "";
}

std::string headline(const Finding& finding) {
  if (finding.cause == Cause::kExternal) {
    return fmt::format("{} [{}]: {}, first read by {} ({})", finding.external,
                       name_of(finding.dtype), to_string(finding.cause), finding.op,
                       location(finding));
  }
  std::string ops = finding.op;
  for (const std::string& inner : finding.inner) ops += " > " + inner;
  return fmt::format("{} [{}], {}: {}{}", ops, name_of(finding.dtype), location(finding),
                     finding.is_swallowed ? "swallowed " : "", to_string(finding.cause));
}

std::string summary(const Diagnosis& diagnosis) {
  if (!diagnosis.is_reproduced.value_or(true)) return "not reproduced: " + diagnosis.not_reproduced;
  if (diagnosis.findings.empty()) return text_without_finding(diagnosis);
  const Finding& first = diagnosis.findings.front();
  std::string text = headline(first);
  const std::string element = element_line(first);
  if (!element.empty()) text += fmt::format("\n  {}", element);
  if (!diagnosis.remedies.empty() && diagnosis.remedies.front().is_proved)
    text += fmt::format("\n  proved: {} ({})", diagnosis.remedies.front().change,
                        diagnosis.remedies.front().outcome);
  return text;
}

std::string to_text(const Diagnosis& diagnosis) {
  std::string text;
  if (diagnosis.is_reproduced.has_value()) {
    text += *diagnosis.is_reproduced
                ? fmt::format("replayed: {} ops, bit for bit the same\n", diagnosis.ops)
                : fmt::format("not reproduced: {}\n", diagnosis.not_reproduced);
  }
  if (diagnosis.findings.empty()) text += text_without_finding(diagnosis) + "\n";
  if (diagnosis.unread > 0)
    text += fmt::format("not read: {} results that are nested tensors or wrappers (functorch's)\n",
                        diagnosis.unread);
  for (const Finding& finding : diagnosis.findings)
    text += fmt::format("\n{}", finding_text(finding));
  if (!diagnosis.remedies.empty()) text += "\n";
  for (const Remedy& remedy : diagnosis.remedies) text += remedy_text(remedy);
  return text;
}

}  // namespace mezzo::numerics
