#include "mezzo/kernels/attention/flash.h"

#include <map>
#include <mutex>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "mezzo/kernels/attention/geometry.h"
#include "mezzo/kernels/matmul/brgemm.h"

namespace mezzo::kernels::flash {
namespace {

/// The products that a head size takes.
std::vector<brgemm::Product> products_of(int64_t head_size) {
  const int64_t E = padded(head_size);
  std::vector<brgemm::Product> products;
  for (int64_t keys = kStep; keys <= kKeys; keys += kStep) {
    products.push_back({keys, kQueries, E, E, kQueries, kQueries, false});      // S^T, dP^T
    products.push_back({E, kQueries, keys, kKeys, kQueries, kQueries, false});  // O^T, dQ^T: first
    products.push_back({E, kQueries, keys, kKeys, kQueries, kQueries, true});   // and further keys
    products.push_back({keys, E, kQueries, kQueries, E, E, true});              // dV, dK
  }
  return products;
}

/// Each tried once a process.
std::string refusal_of_products(at::ScalarType dtype, int64_t head_size) {
  static std::mutex mutex;
  static std::map<std::pair<at::ScalarType, int64_t>, std::string> known;
  const std::lock_guard lock(mutex);
  const std::pair key(dtype, padded(head_size));
  auto found = known.find(key);
  if (found == known.end())
    found = known.emplace(key, brgemm::refusal(dtype, products_of(head_size))).first;
  return found->second;
}

}  // namespace

std::string refusal(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value) {
  const at::ScalarType dtype = query.scalar_type();
  if (dtype != at::kFloat && dtype != at::kBFloat16 && dtype != at::kHalf)
    return fmt::format("{} is not served", c10::toString(dtype));
  if (key.scalar_type() != dtype || value.scalar_type() != dtype) return "the dtypes differ";
  if (query.dim() != 4 || key.dim() != 4 || key.sizes() != value.sizes() ||
      query.size(0) != key.size(0) || query.size(3) != key.size(3))
    return "the shapes differ in batch, heads or head size";
  if (query.numel() == 0 || key.numel() == 0) return "nothing to compute";
  const int64_t H = query.size(1), K = key.size(1);
  if (H % K != 0) return fmt::format("{} query heads are no multiple of {} key heads", H, K);
  if (query.size(3) > kMaxHeadSize)
    return fmt::format("head size {} is above {}", query.size(3), kMaxHeadSize);
  const at::ScalarType operand = dtype == at::kHalf ? at::kFloat : dtype;
  const std::string reason = brgemm::process_refusal(operand);
  return reason.empty() ? refusal_of_products(operand, query.size(3)) : reason;
}

}  // namespace mezzo::kernels::flash
