#include "mezzo/models/hf_parts.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include <fmt/ranges.h>

#include <ATen/ops/equal.h>

#include "mezzo/base/check.h"

namespace mezzo::models::hf {

Json parsed(std::string_view text, const std::string& where) {
  Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  MEZZO_CHECK(json.is_object(), where, "must hold a JSON object, but does not");
  return json;
}

const Json* found_at(const Json& config, const std::string& key) {
  const Json::json_pointer path("/" + key);
  return config.contains(path) ? &config.at(path) : nullptr;
}

int64_t size_of(const Json& config, const std::string& key, const std::string& where) {
  const Json* found = found_at(config, key);
  MEZZO_CHECK(found != nullptr, where, "{} must be there, but is not", key);
  constexpr int64_t kMax = std::numeric_limits<int32_t>::max();
  const int64_t size = found->is_number_integer() ? found->get<int64_t>() : 0;
  MEZZO_CHECK(size >= 1 && size <= kMax, where, "{} must be an integer from 1 to {}, but is {}",
              key, kMax, found->dump());
  return size;
}

double number_of(const Json& config, const std::string& key, std::optional<double> if_absent,
                 const std::string& where) {
  const Json* found = found_at(config, key);
  if (found == nullptr && if_absent) return *if_absent;
  MEZZO_CHECK(found != nullptr, where, "{} must be there, but is not", key);
  const double number = found->is_number() ? found->get<double>() : 0;
  MEZZO_CHECK(std::isfinite(number) && number > 0, where,
              "{} must be a finite number above 0, but is {}", key, found->dump());
  return number;
}

void check_multiple(std::string_view key, int64_t value, std::string_view of, int64_t divisor,
                    const std::string& where) {
  MEZZO_CHECK(value % divisor == 0, where, "{} must be a multiple of {}, {}, but is {}", key, of,
              divisor, value);
}

void check_variant(const Json& config, const Variant& variant, Family family,
                   const std::string& where) {
  const std::vector<Json>& accepted = variant.accepted;
  const Json* found = found_at(config, variant.key);
  if (found == nullptr || std::count(accepted.begin(), accepted.end(), *found) > 0) return;
  std::vector<std::string> words;
  for (const Json& value : accepted) words.push_back(value.dump());
  detail::fail<UsageError>(where, "{} must be {}, the {} that Mezzo computes, but is {}",
                           variant.key, fmt::join(words, " or "), name_of(family), found->dump());
}

Tensors without_prefix(Tensors tensors, std::string_view prefix,
                       bool (*is_no_weight)(const std::string& name), const std::string& where) {
  Tensors result;
  for (auto& [name, tensor] : tensors) {
    const std::string own = name.starts_with(prefix) ? name.substr(prefix.size()) : name;
    if (is_no_weight(own)) continue;
    const bool is_new = result.emplace(own, std::move(tensor)).second;
    MEZZO_CHECK(is_new, where, "tensor \"{}\" must be there once, but is there with and without {}",
                own, prefix);
  }
  return result;
}

at::Tensor taken(Tensors& tensors, const std::string& name, const Shape& shape,
                 const std::string& where) {
  auto node = tensors.extract(name);
  MEZZO_CHECK(!node.empty(), where, "tensor \"{}\" must be there, but is not", name);
  const at::Tensor tensor = std::move(node.mapped());
  MEZZO_CHECK(tensor.sizes() == at::IntArrayRef(shape), where,
              "tensor \"{}\" must have the shape [{}], as config.json has it, but has [{}]", name,
              fmt::join(shape, ", "), fmt::join(tensor.sizes(), ", "));
  MEZZO_CHECK(tensor.is_floating_point(), where,
              "tensor \"{}\" must be of floating point, but is {}", name,
              c10::toString(tensor.scalar_type()));
  return tensor.to(at::kFloat);
}

void take_tied_head(Tensors& tensors, const std::string& embedding_name,
                    const at::Tensor& embedding, std::string_view why, const std::string& where) {
  const auto head = tensors.extract(kHead);
  if (head.empty()) return;
  MEZZO_CHECK(head.mapped().sizes() == embedding.sizes() &&
                  at::equal(head.mapped().to(at::kFloat), embedding),
              where, "tensor \"{}\" must equal \"{}\", {}, but differs", kHead, embedding_name,
              why);
}

void check_is_empty(const Tensors& rest, Family family, const std::string& where) {
  MEZZO_CHECK(rest.empty(), where, "tensor \"{}\" must not be there: {} has no such parameter",
              rest.begin()->first, name_of(family));
}

at::Tensor parameter(const Tensors& weights, const std::string& name, const Shape& shape) {
  const auto found = weights.find(name);
  MEZZO_CHECK(found != weights.end() && found->second.sizes() == at::IntArrayRef(shape),
              "to_hf_weights", "parameter \"{}\" must be there, with the shape [{}], but is not",
              name, fmt::join(shape, ", "));
  return found->second.to(at::kFloat);
}

}  // namespace mezzo::models::hf
