#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

namespace mezzo {

/// What a .safetensors file holds: named tensors and a map of notes about them.
struct SafeTensors {
  std::map<std::string, at::Tensor> tensors;
  std::map<std::string, std::string> metadata;
};

/// A tensor that is made when its turn to be written has come, and then let go.
struct LateTensor {
  at::ScalarType dtype;
  std::vector<int64_t> shape;
  std::function<at::Tensor()> make;
};

/// Writes the file atomically, byte for byte as Python's `safetensors` does: tensors by falling
/// dtype size, then name; equal content gives equal files. (Python leaves the order of the metadata
/// to chance, Mezzo sorts it by key.) Tensors may be on any device and have any strides; one at a
/// time is copied, or made, if it is among the `late` ones, which have other names. dtypes: F64 F32
/// F16 BF16 I64 I32 I16 I8 U8 BOOL. Throws Error, naming the file and the tensor, for an undefined
/// or sparse tensor, another dtype, a name that is "__metadata__" or not UTF-8, or if the file
/// cannot be written.
void save_safetensors(const std::filesystem::path& path, const SafeTensors& content,
                      const std::map<std::string, LateTensor>& late = {});

/// Reads the whole file: tensors on the CPU, contiguous, owning their memory.
/// Throws Error, naming the file and the tensor, unless the file is whole and says one thing:
/// header and tensors inside the file, every byte used once, shape x dtype = bytes, a bool 0 or 1.
/// A changed byte inside a tensor's data cannot be seen here: see checksum.h.
SafeTensors load_safetensors(const std::filesystem::path& path);

}  // namespace mezzo
