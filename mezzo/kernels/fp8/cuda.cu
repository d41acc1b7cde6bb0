#include "mezzo/kernels/cuda/numbers.cuh"
#include "mezzo/kernels/fp8/codes.cuh"
#include "mezzo/kernels/fp8/cuda.h"

// A block casts a tile of x. The values go out at once; for the transposed copy the tile waits in
// shared memory, a byte a number, and leaves it column by column.

namespace mezzo::kernels::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kTile = 64;
constexpr int kPitch = kTile + 4;  // so that a column's bytes are not all in one bank

/// The largest |x| as bits: those of numbers that are not negative are in the numbers' order, and
/// NaN's are above Inf's.
__device__ __forceinline__ unsigned magnitude_bits(float x) {
  return __float_as_uint(x) & 0x7fffffffu;
}

struct alignas(4) Tile {
  unsigned char codes[kTile][kPitch];
  unsigned amax;
};

/// Width numbers of a row at a time, from x to values and into the tile. Returns the thread's
/// largest magnitude_bits().
template <class T, class F, int Width>
__device__ unsigned cast_tile(const Fp8Rows& a, int64_t row0, int64_t column0, Tile& tile) {
  const T* __restrict__ x = static_cast<const T*>(a.x);
  auto* __restrict__ values = static_cast<unsigned char*>(a.values);
  constexpr int kWord = Width < 4 ? 1 : 4;
  const float inverse = 1.0f / *a.scale;
  unsigned amax = 0;
#pragma unroll
  for (int step = 0; step < kTile * kTile / Width / kThreads; ++step) {
    const int i = step * kThreads + static_cast<int>(threadIdx.x);
    const int row = i / (kTile / Width), column = Width * (i % (kTile / Width));
    if (row0 + row >= a.rows || column0 + column >= a.C) continue;
    const int64_t at = (row0 + row) * a.C + column0 + column;
    const auto numbers = load<Width>(x + at);
    Pack<unsigned char, Width> codes;
#pragma unroll
    for (int k = 0; k < Width; ++k) {
      const float number = wide(numbers.at[k]);
      amax = max(amax, magnitude_bits(number));
      codes.at[k] = code_of<F>(number, inverse);
    }
    store(values + at, codes);
#pragma unroll
    for (int k = 0; k < Width; k += kWord)
      store(&tile.codes[row][column + k], load<kWord>(codes.at + k));
  }
  return amax;
}

/// Width rows of a column at a time.
template <int Width>
__device__ void write_transposed(const Fp8Rows& a, int64_t row0, int64_t column0,
                                 const Tile& tile) {
  auto* __restrict__ transposed = static_cast<unsigned char*>(a.transposed);
#pragma unroll
  for (int step = 0; step < kTile * kTile / Width / kThreads; ++step) {
    const int i = step * kThreads + static_cast<int>(threadIdx.x);
    const int column = i / (kTile / Width), row = Width * (i % (kTile / Width));
    if (row0 + row >= a.rows || column0 + column >= a.C) continue;
    Pack<unsigned char, Width> codes;
#pragma unroll
    for (int k = 0; k < Width; ++k) codes.at[k] = tile.codes[row + k][column];
    store(transposed + (column0 + column) * a.rows + row0 + row, codes);
  }
}

/// Vectors: rows and C are multiples of 16, so that rows of x, values and transposed are whole
/// numbers of 16 bytes.
template <class T, class F, bool Vectors>
__global__ void __launch_bounds__(kThreads) cast_tiles(Fp8Rows a) {
  __shared__ Tile tile;
  if (threadIdx.x == 0) tile.amax = 0;
  __syncthreads();
  const auto across = static_cast<unsigned>(ceil_div(a.C, kTile));
  const int64_t row0 = int64_t{blockIdx.x / across} * kTile,
                column0 = int64_t{blockIdx.x % across} * kTile;
  constexpr int kWidth = Vectors ? 16 / sizeof(T) : 1;
  unsigned amax = cast_tile<T, F, kWidth>(a, row0, column0, tile);
  amax = warp_max(amax);
  if (threadIdx.x % kWarp == 0) atomicMax(&tile.amax, amax);
  __syncthreads();
  if (a.transposed != nullptr) write_transposed<Vectors ? 16 : 1>(a, row0, column0, tile);
  if (a.amax != nullptr && threadIdx.x == 0)
    atomicMax(reinterpret_cast<unsigned*>(a.amax), tile.amax);
}

/// scale_of() of scaling.cpp.
__device__ __forceinline__ float scale_of(float amax, float largest) {
  if (!(amax > 0.0f && amax < INFINITY)) return 1.0f;
  const float quotient = fminf(fmaxf(largest / amax, 0x1p-126f), 0x1p126f);
  // Without its fraction a number is the power of two below it.
  return 1.0f / __uint_as_float(__float_as_uint(quotient) & 0x7f800000u);
}

/// One block, a thread for each number of the history.
__global__ void scale_step(Fp8ScaleStep a) {
  __shared__ unsigned all;
  const int i = static_cast<int>(threadIdx.x);
  const float latest = *a.amax;
  if (a.amaxes == nullptr) {
    if (i == 0) *a.scale = scale_of(latest, a.largest);
    return;
  }
  if (i == 0) all = 0;
  const bool moves = latest < INFINITY;  // not for NaN
  float own = 0.0f;
  if (i < a.H) own = !moves ? a.amaxes[i] : i == 0 ? latest : a.amaxes[i - 1];
  __syncthreads();  // all is read
  if (i < a.H) a.amaxes[i] = own;
  atomicMax(&all, __float_as_uint(own));
  __syncthreads();
  if (i > 0) return;
  *a.amax = 0.0f;
  *a.scale = scale_of(__uint_as_float(all), a.largest);
}

template <class T, class F>
void launch_tiles(const Fp8Rows& a, void* stream) {
  const int64_t tiles = ceil_div(a.rows, kTile) * ceil_div(a.C, kTile);
  if (a.rows % 16 == 0 && a.C % 16 == 0) {
    launch(cast_tiles<T, F, true>, tiles, kThreads, stream, a);
  } else {
    launch(cast_tiles<T, F, false>, tiles, kThreads, stream, a);
  }
}

}  // namespace

void launch_fp8_cast(const Fp8Rows& a, void* stream) {
  if (a.rows == 0 || a.C == 0) return;
  with_dtype(a.dtype, [&]<class T>(T) {
    if (a.format == Fp8Format::kE4M3) {
      launch_tiles<T, Float8_e4m3fn>(a, stream);
    } else {
      launch_tiles<T, Float8_e5m2>(a, stream);
    }
  });
}

void launch_fp8_scale(const Fp8ScaleStep& a, void* stream) {
  launch(scale_step, 1, static_cast<int>(ceil_div(a.H, kWarp) * kWarp), stream, a);
}

}  // namespace mezzo::kernels::cuda
