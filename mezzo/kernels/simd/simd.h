#pragma once

namespace mezzo::kernels {

// Note [Loops for several instruction sets]
// A loop over numbers is written once, as plain C++ in a function that is MEZZO_INLINE, as are all
// that it calls. simd<loop>(arguments...) compiles it three times, for AVX512, for AVX2 and for the
// baseline, and runs the widest that the process may use. The compiler makes vectors of it: count
// with a plain index, leave out calls into other sources, give a sum
// `#pragma omp simd reduction(+ : sum)`, which lets it be added up in any order.
// The plain loop is the definition; what differs between the three is the order of sums, and
// whether a product and a sum are rounded once (FMA) or twice.
//
// What nvcc compiles (__CUDACC__) may call these functions on a GPU too, one number at a time.

#ifdef __CUDACC__
#define MEZZO_INLINE __host__ __device__ __forceinline__
#else
#define MEZZO_INLINE __attribute__((always_inline)) inline
#endif

enum class InstructionSet { kBaseline, kAvx2, kAvx512 };

/// The widest that this CPU has and the environment allows: libtorch's own switch,
/// ATEN_CPU_CAPABILITY=default|avx2|avx512, holds for Mezzo's loops too.
InstructionSet instruction_set();

#ifndef __CUDACC__
namespace detail {

template <auto loop, class... Arguments>
__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma,f16c,prefer-vector-width=512"),
               noinline)) auto
run_avx512(Arguments... arguments) {
  return loop(arguments...);
}

template <auto loop, class... Arguments>
__attribute__((target("avx2,fma,f16c"), noinline)) auto run_avx2(Arguments... arguments) {
  return loop(arguments...);
}

template <auto loop, class... Arguments>
__attribute__((noinline)) auto run_baseline(Arguments... arguments) {
  return loop(arguments...);
}

}  // namespace detail

/// loop(arguments...), compiled for instruction_set(). Arguments are passed by value: numbers,
/// pointers and small structs of these.
template <auto loop, class... Arguments>
auto simd(Arguments... arguments) {
  switch (instruction_set()) {
    case InstructionSet::kAvx512:
      return detail::run_avx512<loop>(arguments...);
    case InstructionSet::kAvx2:
      return detail::run_avx2<loop>(arguments...);
    default:
      return detail::run_baseline<loop>(arguments...);
  }
}
#endif

}  // namespace mezzo::kernels
