#include "mezzo/optim/named_state.h"

#include <set>

#include <fmt/ranges.h>

#include <ATen/core/grad_mode.h>

#include "mezzo/base/check.h"

namespace mezzo::optim::detail {
namespace {

void check_same_kind(const std::string& where, const std::string& key, const at::Tensor& own,
                     const at::Tensor& given) {
  MEZZO_CHECK(given.sizes() == own.sizes() && given.scalar_type() == own.scalar_type(), where,
              "\"{}\" must be {} [{}], but is {} [{}]", key, c10::toString(own.scalar_type()),
              fmt::join(own.sizes(), ", "), c10::toString(given.scalar_type()),
              fmt::join(given.sizes(), ", "));
}

}  // namespace

std::string name_of(const char* optimizer, const NamedParameters& named, const at::Tensor& param) {
  for (const auto& candidate : named) {
    if (candidate.value().unsafeGetTensorImpl() == param.unsafeGetTensorImpl()) {
      return candidate.key();
    }
  }
  mezzo::detail::fail<Error>(
      optimizer,
      "every parameter must be named, but one of shape [{}] is not. Hint: pass the "
      "named_parameters() of the model that the optimizer was made for",
      fmt::join(param.sizes(), ", "));
}

void load_keyed(const std::string& where, const KeyedTensors& own,
                const std::map<std::string, at::Tensor>& given) {
  std::set<std::string> known;
  for (const auto& [key, tensor] : own) {
    const auto found = given.find(key);
    MEZZO_CHECK(found != given.end(), where,
                "the state must hold \"{}\", but does not. Hint: was it saved by another model or "
                "other optimizer options?",
                key);
    check_same_kind(where, key, tensor, found->second);
    known.insert(key);
  }
  for (const auto& [key, tensor] : given) {
    MEZZO_CHECK(known.contains(key), where,
                "the state must hold only this optimizer's, but holds \"{}\"", key);
  }
  const at::NoGradGuard no_grad;
  for (const auto& [key, tensor] : own) {
    tensor.copy_(given.at(key));
  }
}

}  // namespace mezzo::optim::detail
