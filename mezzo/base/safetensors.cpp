#include "mezzo/base/safetensors.h"

#include <algorithm>
#include <bit>
#include <fstream>

#include <ATen/Functions.h>
#include <c10/util/accumulate.h>

#include "mezzo/base/atomic_file.h"
#include "mezzo/base/check.h"
#include "mezzo/base/safetensors_header.h"

namespace mezzo {
namespace {

static_assert(std::endian::native == std::endian::little, "the format is little-endian");

constexpr int64_t kMaxHeaderBytes = 100'000'000;  // the limit of the format's own reader

int64_t round_up_to_8(int64_t bytes) { return (bytes + 7) / 8 * 8; }

using LateTensors = std::map<std::string, LateTensor>;

int64_t bytes_of(const SafeTensorsEntry& entry) {
  return c10::multiply_integers(entry.shape) * static_cast<int64_t>(c10::elementSize(entry.dtype));
}

SafeTensorsHeader header_of(const SafeTensors& content, const LateTensors& late,
                            const std::string& where) {
  SafeTensorsHeader header{{}, content.metadata};
  for (const auto& [name, tensor] : content.tensors) {
    MEZZO_CHECK(tensor.defined(), where, "tensor \"{}\" must be defined, but is empty", name);
    MEZZO_CHECK(tensor.layout() == at::kStrided, where,
                "tensor \"{}\" must be dense, but its layout is {}", name,
                tensor.is_sparse() ? "sparse" : "another");
    header.entries.push_back({name, tensor.scalar_type(), tensor.sizes().vec()});
  }
  for (const auto& [name, tensor] : late) {
    MEZZO_CHECK(!content.tensors.contains(name), where, "there must be one tensor \"{}\", not two",
                name);
    header.entries.push_back({name, tensor.dtype, tensor.shape});
  }
  const auto place = [&](const SafeTensorsEntry& entry) {
    return std::pair(safetensors_dtype_rank(entry.dtype, entry.name, where), entry.name);
  };
  std::sort(header.entries.begin(), header.entries.end(),
            [&](const auto& a, const auto& b) { return place(a) < place(b); });
  int64_t offset = 0;
  for (SafeTensorsEntry& entry : header.entries) {
    entry.begin = offset;
    offset += bytes_of(entry);
    entry.end = offset;
  }
  return header;
}

void read_exactly(std::ifstream& in, void* to, int64_t bytes, const std::string& where) {
  in.read(static_cast<char*>(to), bytes);
  MEZZO_CHECK(in.gcount() == bytes, where, "must give {} more bytes, but gave {}: truncated?",
              bytes, in.gcount());
}

at::Tensor read_tensor(std::ifstream& in, const SafeTensorsEntry& entry, const std::string& where) {
  at::Tensor tensor = at::empty(entry.shape, entry.dtype);
  read_exactly(in, tensor.data_ptr(), entry.end - entry.begin, where);
  if (entry.dtype == at::kBool) {
    const auto* bytes = static_cast<const uint8_t*>(tensor.data_ptr());
    const bool all_bools =
        std::all_of(bytes, bytes + tensor.numel(), [](uint8_t b) { return b < 2; });
    MEZZO_CHECK(all_bools, where, "tensor \"{}\": a BOOL must be 0 or 1, but one is another byte",
                entry.name);
  }
  return tensor;
}

}  // namespace

void save_safetensors(const std::filesystem::path& path, const SafeTensors& content,
                      const LateTensors& late) {
  const std::string where = path.string();
  const SafeTensorsHeader header = header_of(content, late, where);
  std::string json = format_safetensors_header(header, where);
  json.resize(static_cast<size_t>(round_up_to_8(static_cast<int64_t>(json.size()))), ' ');

  write_file_atomically(path, [&](const ByteSink& write) {
    const uint64_t json_bytes = json.size();
    write({reinterpret_cast<const char*>(&json_bytes), sizeof json_bytes});
    write(json);
    for (const SafeTensorsEntry& entry : header.entries) {
      const auto own = content.tensors.find(entry.name);
      const at::Tensor source =
          own != content.tensors.end() ? own->second : late.at(entry.name).make();
      MEZZO_CHECK(source.scalar_type() == entry.dtype && source.sizes() == entry.shape, where,
                  "tensor \"{}\" must be made as it was announced", entry.name);
      const at::Tensor tensor = source.detach().cpu().contiguous().resolve_neg();
      write({static_cast<const char*>(tensor.const_data_ptr()), tensor.nbytes()});
    }
  });
}

SafeTensors load_safetensors(const std::filesystem::path& path) {
  const std::string where = path.string();
  MEZZO_CHECK(std::filesystem::is_regular_file(path), where, "must be a file, but is {}",
              std::filesystem::exists(path) ? "something else" : "not there");
  std::ifstream in(path, std::ios::binary);
  MEZZO_CHECK(in.good(), where, "cannot be opened for reading");

  const auto file_bytes = static_cast<int64_t>(std::filesystem::file_size(path));
  MEZZO_CHECK(file_bytes >= 8, where, "a safetensors file has at least 8 bytes, but this has {}",
              file_bytes);
  uint64_t header_bytes = 0;
  read_exactly(in, &header_bytes, sizeof header_bytes, where);
  const int64_t most = std::min(kMaxHeaderBytes, file_bytes - 8);
  MEZZO_CHECK(header_bytes <= static_cast<uint64_t>(most), where,
              "the header must take at most {} bytes of this file, but says {}: truncated, altered "
              "or not a safetensors file",
              most, header_bytes);
  std::string json(header_bytes, '\0');
  read_exactly(in, json.data(), static_cast<int64_t>(header_bytes), where);

  const int64_t data_bytes = file_bytes - 8 - static_cast<int64_t>(header_bytes);
  const SafeTensorsHeader header = parse_safetensors_header(json, data_bytes, where);
  SafeTensors content{{}, header.metadata};
  for (const SafeTensorsEntry& entry : header.entries) {  // in file order: one pass, no seek
    content.tensors.emplace(entry.name, read_tensor(in, entry, where));
  }
  return content;
}

}  // namespace mezzo
