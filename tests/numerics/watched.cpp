#include "tests/numerics/watched.h"

#include <ATen/ops/full.h>
#include <ATen/ops/matmul.h>

#include "mezzo/base/scope.h"
#include "mezzo/numerics/watch.h"

namespace mezzo::numerics {

Diagnosis watched(const std::function<void()>& step) {
  Watch watch;
  step();
  return watch.report();
}

Finding first_finding(const std::function<void()>& step) {
  const Diagnosis diagnosis = watched(step);
  if (!diagnosis.findings.empty()) return diagnosis.findings.front();
  Finding none;
  none.op = "nothing";
  return none;
}

std::vector<std::string> headlines(const Diagnosis& diagnosis) {
  std::vector<std::string> lines;
  for (const Finding& finding : diagnosis.findings) lines.push_back(headline(finding));
  return lines;
}

at::Tensor half(at::IntArrayRef sizes, double value) { return at::full(sizes, value, at::kHalf); }

void step(const std::string& scope, double w) {
  const Scope part(scope);
  const at::Tensor weight = half({4, 4}, w).set_requires_grad(true);
  const at::Tensor h = at::matmul(half({2, 4}, 1), weight).exp();
  (h / h.sum()).to(at::kFloat).pow(2).sum().backward();
}

}  // namespace mezzo::numerics
