#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "mezzo/optim/parameter_groups.h"

namespace mezzo::optim::detail {

/// The tensors of an optimizer by their keys, in its own order.
using KeyedTensors = std::vector<std::pair<std::string, at::Tensor>>;

/// Throws Error if `named` misses the parameter. optimizer: for errors.
std::string name_of(const char* optimizer, const NamedParameters& named, const at::Tensor& param);

/// Copies `given` into `own`, key by key. Throws Error, and changes nothing, if a key is missing or
/// unknown, or a shape or dtype differs.
void load_keyed(const std::string& where, const KeyedTensors& own,
                const std::map<std::string, at::Tensor>& given);

}  // namespace mezzo::optim::detail
