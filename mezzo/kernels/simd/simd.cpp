#include "mezzo/kernels/simd/simd.h"

#include <string>

#include <ATen/Version.h>

namespace mezzo::kernels {

InstructionSet instruction_set() {
  static const InstructionSet widest = [] {
    const std::string allowed = at::get_cpu_capability();
    const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    const bool has_avx512 =
        has_avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    if (allowed == "AVX512" && has_avx512) return InstructionSet::kAvx512;
    if ((allowed == "AVX512" || allowed == "AVX2") && has_avx2) return InstructionSet::kAvx2;
    return InstructionSet::kBaseline;
  }();
  return widest;
}

}  // namespace mezzo::kernels
