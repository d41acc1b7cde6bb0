#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include <c10/core/ScalarType.h>

namespace mezzo {

/// One tensor in a file's header. Offsets are bytes from the start of the data.
struct SafeTensorsEntry {
  std::string name;
  at::ScalarType dtype;
  std::vector<int64_t> shape;
  int64_t begin = 0;
  int64_t end = 0;
};

struct SafeTensorsHeader {
  std::vector<SafeTensorsEntry> entries;  // in the order of their data
  std::map<std::string, std::string> metadata;
};

/// The header's JSON, without its length and padding. `where` names the file in errors.
std::string format_safetensors_header(const SafeTensorsHeader& header, const std::string& where);

/// Reads and checks the JSON of a file with `data_bytes` bytes of data: the entries fill them
/// exactly, without a gap or an overlap. Throws Error naming the file (`where`) and the tensor.
SafeTensorsHeader parse_safetensors_header(std::string_view json, int64_t data_bytes,
                                           const std::string& where);

/// Position of `dtype` in the order that a file's data is laid out in, widest first; throws Error,
/// naming the tensor, for a dtype that the format or this reader has no name for.
size_t safetensors_dtype_rank(at::ScalarType dtype, const std::string& tensor,
                              const std::string& where);

}  // namespace mezzo
