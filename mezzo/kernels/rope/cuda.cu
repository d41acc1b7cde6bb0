#include <algorithm>

#include "mezzo/kernels/cuda/numbers.cuh"
#include "mezzo/kernels/rope/cuda.h"

namespace mezzo::kernels::cuda {
namespace {

/// A block turns the heads of one token, a thread `Width` pairs at a time: two loads of so many
/// numbers.
template <class T, bool kIsInterleaved, int Width>
__global__ void rotate_token(Rope a) {
  const auto length = static_cast<unsigned>(a.shape.T);
  const unsigned b = blockIdx.x / length, t = blockIdx.x % length;
  const auto D = static_cast<int>(a.shape.D), H = static_cast<int>(a.shape.H);
  const T* x = static_cast<const T*>(a.x) + b * a.shape.batch_stride + t * a.shape.token_stride;
  T* y = static_cast<T*>(a.y) + int64_t{blockIdx.x} * H * D;
  const float *cos = a.table + int64_t{t} * D, *sin = cos + D / 2;
  const int of_head = D / 2 / Width;
  for (int i = static_cast<int>(threadIdx.x); i < H * of_head; i += static_cast<int>(blockDim.x)) {
    const int h = i / of_head, pair = Width * (i % of_head);
    const int first = kIsInterleaved ? 2 * pair : pair,
              second = first + (kIsInterleaved ? Width : D / 2);
    const T* head = x + h * a.shape.head_stride;
    const auto c = load<Width>(cos + pair), s = load<Width>(sin + pair);
    const Pack<T, Width> in[2] = {load<Width>(head + first), load<Width>(head + second)};
    Pack<T, Width> out[2];
#pragma unroll
    for (int k = 0; k < Width; ++k) {
      const int at_a = kIsInterleaved ? 2 * k : k, at_b = kIsInterleaved ? 2 * k + 1 : Width + k;
      const float number_a = wide(in[at_a / Width].at[at_a % Width]),
                  number_b = wide(in[at_b / Width].at[at_b % Width]);
      const float turn = a.direction * s.at[k];
      out[at_a / Width].at[at_a % Width] = narrow<T>(number_a * c.at[k] - number_b * turn);
      out[at_b / Width].at[at_b % Width] = narrow<T>(number_a * turn + number_b * c.at[k]);
    }
    store(y + h * D + first, out[0]);
    store(y + h * D + second, out[1]);
  }
}

template <class T, bool kIsInterleaved, int Width>
void launch_width(const Rope& a, void* stream) {
  constexpr int64_t kMostThreads = 256;
  const int64_t work = a.shape.H * (a.shape.D / 2 / Width);
  const auto threads =
      static_cast<int>(std::min(kMostThreads, ceil_div(work, int64_t{kWarp}) * kWarp));
  launch(rotate_token<T, kIsInterleaved, Width>, a.shape.B * a.shape.T, threads, stream, a);
}

/// Whether every load of `width` numbers of x and table lies at a multiple of its size.
bool is_aligned(const Rope& a, int64_t width, int64_t bytes_of_number) {
  const RopeShape& s = a.shape;
  return s.D / 2 % width == 0 && s.batch_stride % width == 0 && s.token_stride % width == 0 &&
         s.head_stride % width == 0 &&
         reinterpret_cast<uintptr_t>(a.x) % static_cast<uintptr_t>(width * bytes_of_number) == 0;
}

template <class T, bool kIsInterleaved>
void launch_pairs(const Rope& a, void* stream) {
  if (is_aligned(a, 4, sizeof(T))) return launch_width<T, kIsInterleaved, 4>(a, stream);
  launch_width<T, kIsInterleaved, 1>(a, stream);
}

}  // namespace

void launch_rope(const Rope& a, void* stream) {
  if (a.shape.B * a.shape.T * a.shape.H * a.shape.D == 0) return;
  with_dtype(a.dtype, [&]<class T>(T) {
    if (a.is_interleaved) return launch_pairs<T, true>(a, stream);
    launch_pairs<T, false>(a, stream);
  });
}

}  // namespace mezzo::kernels::cuda
