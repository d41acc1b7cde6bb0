#pragma once

#include <cstdint>
#include <string_view>

namespace mezzo {

/// What autocast does with the arguments of an op; at::autocast::CastPolicy's words, and two more.
/// "Eligible" is a floating-point tensor on the region's device that is not fp64.
enum class CastRule : uint8_t {
  kLower,            ///< "lower": eligible arguments in the region's 16-bit type
  kFp32,             ///< "fp32": eligible arguments in fp32
  kFp32SetDtype,     ///< "fp32_set_dtype": dtype = fp32 where the caller gave none (softmax, sum)
  kFp32AppendDtype,  ///< "fp32_append_dtype": the overload that takes a dtype, with fp32 (norm)
  kPromote,          ///< "promote": all eligible arguments in the widest type among them
  kPass,             ///< "pass": as the arguments come
  kBanned,           ///< "banned": an error that says what to use instead
};

/// The word for it: "fp32_set_dtype".
std::string_view name_of(CastRule rule);

/// Throws UsageError for an unknown name, naming the known ones.
CastRule cast_rule(std::string_view name);

}  // namespace mezzo
