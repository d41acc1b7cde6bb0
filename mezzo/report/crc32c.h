#pragma once

#include <cstdint>
#include <string_view>

namespace mezzo::report {

/// CRC-32C (Castagnoli; RFC 3720, appendix B.4), as TFRecord files use it.
uint32_t crc32c(std::string_view bytes);

}  // namespace mezzo::report
