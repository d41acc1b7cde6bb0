#include "mezzo/base/safetensors_header.h"

#include <algorithm>
#include <array>

#include <nlohmann/json.hpp>

#include "mezzo/base/check.h"

namespace mezzo {
namespace {

using Json = nlohmann::json;
using OrderedJson = nlohmann::ordered_json;  // to write: keeps the order of the data

struct Dtype {
  std::string_view name;
  at::ScalarType type;
};

// The order is that of Python's safetensors, so that equal content gives equal files.
constexpr std::array<Dtype, 10> kDtypes = {{{"I64", at::kLong},
                                            {"F64", at::kDouble},
                                            {"F32", at::kFloat},
                                            {"I32", at::kInt},
                                            {"BF16", at::kBFloat16},
                                            {"F16", at::kHalf},
                                            {"I16", at::kShort},
                                            {"I8", at::kChar},
                                            {"U8", at::kByte},
                                            {"BOOL", at::kBool}}};

constexpr std::string_view kMetadata = "__metadata__";

at::ScalarType dtype_named(const std::string& name, const std::string& tensor,
                           const std::string& where) {
  const auto found = std::find_if(kDtypes.begin(), kDtypes.end(),
                                  [&](const Dtype& dtype) { return dtype.name == name; });
  MEZZO_CHECK(found != kDtypes.end(), where,
              "tensor \"{}\" must have a dtype of F64 F32 F16 BF16 I64 I32 I16 I8 U8 BOOL, but has "
              "\"{}\"",
              tensor, name);
  return found->type;
}

// A JSON integer in [0, 2^63), or nothing.
int64_t whole_number(const Json& value, const std::string& what, const std::string& tensor,
                     const std::string& where) {
  const bool fits = value.is_number_unsigned() && value.get<uint64_t>() <= uint64_t{INT64_MAX};
  MEZZO_CHECK(fits, where, "tensor \"{}\": {} must be whole numbers, but one is {}", tensor, what,
              value.dump(-1, ' ', true, Json::error_handler_t::replace));
  return value.get<int64_t>();
}

int64_t bytes_of(const SafeTensorsEntry& entry, const std::string& where) {
  // Zero dimensions count as one here: [0, 2^62, 2^62] is empty, but has no strides either.
  int64_t product = static_cast<int64_t>(c10::elementSize(entry.dtype));
  bool is_empty = false;
  for (const int64_t size : entry.shape) {
    is_empty = is_empty || size == 0;
    const bool overflows = __builtin_mul_overflow(product, std::max<int64_t>(size, 1), &product);
    MEZZO_CHECK(!overflows, where, "tensor \"{}\": its shape has more elements than can be counted",
                entry.name);
  }
  return is_empty ? 0 : product;
}

const Json& field(const Json& object, const char* key, const std::string& tensor,
                  const std::string& where) {
  const auto found = object.find(key);
  MEZZO_CHECK(found != object.end(), where, "tensor \"{}\" must have a \"{}\", but has none",
              tensor, key);
  return *found;
}

SafeTensorsEntry parse_entry(const std::string& name, const Json& value, const std::string& where) {
  MEZZO_CHECK(value.is_object(), where, "tensor \"{}\" must be an object, but is {}", name,
              value.type_name());
  const Json& dtype = field(value, "dtype", name, where);
  const Json& shape = field(value, "shape", name, where);
  const Json& offsets = field(value, "data_offsets", name, where);
  MEZZO_CHECK(dtype.is_string(), where, "tensor \"{}\": dtype must be a string, but is {}", name,
              dtype.type_name());
  MEZZO_CHECK(shape.is_array(), where, "tensor \"{}\": shape must be an array, but is {}", name,
              shape.type_name());
  MEZZO_CHECK(offsets.is_array() && offsets.size() == 2, where,
              "tensor \"{}\": data_offsets must be [begin, end], but is {}", name,
              offsets.is_array() ? fmt::format("{} numbers", offsets.size()) : offsets.type_name());

  SafeTensorsEntry entry{name, dtype_named(dtype.get<std::string>(), name, where), {}};
  for (const Json& size : shape) {
    entry.shape.push_back(whole_number(size, "the sizes of its shape", name, where));
  }
  entry.begin = whole_number(offsets[0], "data_offsets", name, where);
  entry.end = whole_number(offsets[1], "data_offsets", name, where);
  MEZZO_CHECK(entry.begin <= entry.end && entry.end - entry.begin == bytes_of(entry, where), where,
              "tensor \"{}\": shape and dtype take {} bytes, but data_offsets are [{}, {}]", name,
              bytes_of(entry, where), entry.begin, entry.end);
  return entry;
}

std::map<std::string, std::string> parse_metadata(const Json& value, const std::string& where) {
  MEZZO_CHECK(value.is_object(), where, "__metadata__ must be an object, but is {}",
              value.type_name());
  std::map<std::string, std::string> metadata;
  for (const auto& [key, text] : value.items()) {
    MEZZO_CHECK(text.is_string(), where, "__metadata__ \"{}\" must be a string, but is {}", key,
                text.type_name());
    metadata.emplace(key, text.get<std::string>());
  }
  return metadata;
}

void check_fills_exactly(const std::vector<SafeTensorsEntry>& entries, int64_t data_bytes,
                         const std::string& where) {
  int64_t covered = 0;
  for (const SafeTensorsEntry& entry : entries) {
    MEZZO_CHECK(entry.end <= data_bytes, where,
                "tensor \"{}\" ends at byte {}, but the file holds {} bytes of data: it is "
                "truncated or altered",
                entry.name, entry.end, data_bytes);
    MEZZO_CHECK(entry.begin == covered, where,
                "tensor \"{}\" must begin at byte {}, but begins at {}: tensors overlap or leave a "
                "gap",
                entry.name, covered, entry.begin);
    covered = entry.end;
  }
  MEZZO_CHECK(covered == data_bytes, where,
              "the tensors take {} bytes, but the file holds {} bytes of data", covered,
              data_bytes);
}

}  // namespace

size_t safetensors_dtype_rank(at::ScalarType dtype, const std::string& tensor,
                              const std::string& where) {
  const auto found = std::find_if(kDtypes.begin(), kDtypes.end(),
                                  [&](const Dtype& known) { return known.type == dtype; });
  MEZZO_CHECK(found != kDtypes.end(), where,
              "tensor \"{}\" must be of fp64 fp32 fp16 bf16 int64 int32 int16 int8 uint8 or bool, "
              "but is {}",
              tensor, c10::toString(dtype));
  return static_cast<size_t>(found - kDtypes.begin());
}

std::string format_safetensors_header(const SafeTensorsHeader& header, const std::string& where) {
  OrderedJson json = OrderedJson::object();
  if (!header.metadata.empty()) json[std::string(kMetadata)] = header.metadata;
  for (const SafeTensorsEntry& entry : header.entries) {
    MEZZO_CHECK(entry.name != kMetadata, where, "a tensor must not be named \"__metadata__\"");
    const size_t rank = safetensors_dtype_rank(entry.dtype, entry.name, where);
    json[entry.name] = OrderedJson{{"dtype", kDtypes[rank].name},
                                   {"shape", entry.shape},
                                   {"data_offsets", {entry.begin, entry.end}}};
  }
  try {
    return json.dump();
  } catch (const OrderedJson::exception&) {
    detail::fail<Error>(where, "names and metadata must be UTF-8, but one is not");
  }
}

SafeTensorsHeader parse_safetensors_header(std::string_view text, int64_t data_bytes,
                                           const std::string& where) {
  const Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  MEZZO_CHECK(json.is_object(), where, "the header must be a JSON object, but is {}",
              json.is_discarded() ? "not JSON" : json.type_name());
  SafeTensorsHeader header;
  for (const auto& [name, value] : json.items()) {
    if (name == kMetadata) {
      header.metadata = parse_metadata(value, where);
    } else {
      header.entries.push_back(parse_entry(name, value, where));
    }
  }
  // Empty tensors share their offset with a neighbour: by end as well, they come first.
  std::stable_sort(header.entries.begin(), header.entries.end(), [](const auto& a, const auto& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  check_fills_exactly(header.entries, data_bytes, where);
  return header;
}

}  // namespace mezzo
