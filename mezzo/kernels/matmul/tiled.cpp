#include "mezzo/kernels/matmul/tiled.h"

#include <algorithm>
#include <type_traits>
#include <vector>

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>

#include "mezzo/base/check.h"
#include "mezzo/kernels/matmul/brgemm.h"
#include "mezzo/kernels/matmul/matmul.h"
#include "mezzo/kernels/matmul/onednn.h"
#include "mezzo/kernels/matmul/pack.h"
#include "mezzo/kernels/matmul/share.h"

namespace mezzo::kernels::tiled {
namespace {

using brgemm::Buffer;

// A tile of C, kRows x kColumns, has its sums in the nearest cache while kDepth of K go by, and the
// right operand's panel, kDepth x kColumns, lies in the next.
template <class P>
constexpr int64_t kDepth = 3072 / sizeof(P);
constexpr int64_t kTile = kRows * kColumns;

// Of a deeper K, the sums of so many tiles by so many panels are kept, 4 MiB: for the first, each
// panel is packed once; for the second, A is gone through once.
constexpr int64_t kMostTiles = 32;
constexpr int64_t kMostPanels = 8;
// Of K, where A is packed block by block and all of B before, which is gone through once a block:
// the bytes of a row, 64 of which lie beside a panel of B in the second-level cache.
constexpr int64_t kMostPacked = 8192;

// Below, packing and the tiles' rims outweigh what they save.
constexpr int64_t kLeastSide = 64;
constexpr int64_t kLeastProduct = int64_t{1} << 22;

/// Where a tile's sums go: rounded, with a bias, to a tensor.
template <class T>
struct Rounded {
  T* data;
  int64_t stride;
  const float* bias;  // [N], up to a multiple of kColumns
};

/// Or added to one.
struct Added {
  float* data;
  int64_t stride;
};

// A row a call: of fp16 in nested loops gcc makes no vectors.
template <class T>
MEZZO_INLINE void put_row(const float* sums, const float* bias, int64_t columns, T* __restrict to) {
  for (int64_t j = 0; j < columns; ++j) to[j] = narrow<T>(sums[j] + bias[j]);
}

MEZZO_INLINE void add_row(const float* sums, int64_t columns, float* __restrict to) {
  for (int64_t j = 0; j < columns; ++j) to[j] += sums[j];
}

template <class T>
void finish(const float* tile, const Rounded<T>& to, int64_t m, int64_t n, int64_t rows,
            int64_t columns) {
  for (int64_t i = 0; i < rows; ++i)
    simd<put_row<T>>(tile + i * kColumns, to.bias + n, columns, to.data + (m + i) * to.stride + n);
}

void finish(const float* tile, const Added& to, int64_t m, int64_t n, int64_t rows,
            int64_t columns) {
  for (int64_t i = 0; i < rows; ++i)
    simd<add_row>(tile + i * kColumns, columns, to.data + (m + i) * to.stride + n);
}

struct Range {
  int64_t begin, end;
  int64_t size() const { return end - begin; }
};

/// The i-th of `parts` of `size`.
Range part_of(int64_t size, int64_t parts, int64_t i) {
  return {size * i / parts, size * (i + 1) / parts};
}

/// work(tiles of the first side, tiles of the second) for every thread.
template <class Work>
void share_out(int64_t first_tiles, int64_t second_tiles, Work work) {
  const Shares shares = shares_of(at::get_num_threads(), first_tiles, second_tiles);
  at::parallel_for(0, shares.firsts * shares.seconds, 1, [&](int64_t begin, int64_t end) {
    const brgemm::ThreadState state;
    for (int64_t i = begin; i < end; ++i)
      work(part_of(first_tiles, shares.firsts, i / shares.seconds),
           part_of(second_tiles, shares.seconds, i % shares.seconds));
  });
}

template <class P>
void multiply(const Block<P>& left, const P* right, int64_t K, bool accumulates, float* tile) {
  brgemm::multiply<P>({kRows, kColumns, K, left.stride, kColumns, kColumns, accumulates}, left.data,
                      right, tile);
}

struct Sizes {
  int64_t M, N, K;
};

/// The left operand where A is read in place: A itself, but for its last rows if they fill no tile.
template <class P>
class DenseRows {
 public:
  DenseRows(Matrix<P> a, int64_t M, int64_t K)
      : a_(a), full_(M / kRows), stride_(padded(K)), rest_(M % kRows == 0 ? 0 : kRows * stride_) {
    if (M % kRows != 0) pack_left<P, P>(a.from(full_ * kRows, 0), M % kRows, K, rest_.get());
  }
  Block<P> block(int64_t tile, int64_t k) const {
    if (tile < full_) return {a_.from(tile * kRows, k).data, a_.row};
    return {rest_.get() + k, stride_};
  }

 private:
  Matrix<P> a_;
  int64_t full_, stride_;
  Buffer<P> rest_;
};

/// Tiles x panels of C, over all of K. room: for a panel of B; sums: for these tiles, or for one
/// where K is no deeper than a panel.
template <class P, class To>
void multiply_panels(const Sizes& s, const DenseRows<P>& a, Matrix<P> b, const To& to, Range tiles,
                     Range panels, P* room, float* sums) {
  const bool is_deep = s.K > kDepth<P>;
  for (int64_t k = 0; k < s.K; k += kDepth<P>) {
    const int64_t depth = std::min(kDepth<P>, s.K - k);
    float* tile = sums;
    for (int64_t p = panels.begin; p < panels.end; ++p) {
      const int64_t n = p * kColumns, columns = std::min(kColumns, s.N - n);
      pack_right<P, P>(b.from(k, n), depth, columns, room);
      for (int64_t i = tiles.begin; i < tiles.end; ++i) {
        const int64_t m = i * kRows;
        multiply<P>(a.block(i, k), room, depth, k > 0, tile);
        if (k + depth == s.K) finish(tile, to, m, n, std::min(kRows, s.M - m), columns);
        if (is_deep) tile += kTile;
      }
    }
  }
}

/// B is packed panel by panel, each for many rows of A, which is taken as it is.
template <class P, class To>
void by_panels(const Sizes& s, const DenseRows<P>& a, Matrix<P> b, const To& to) {
  share_out(ceil_div(s.N, kColumns), ceil_div(s.M, kRows), [&](Range panels, Range tiles) {
    const int64_t most = std::min(kMostPanels, panels.size()) * std::min(kMostTiles, tiles.size());
    const Buffer<P> room(padded(std::min(s.K, kDepth<P>)) * kColumns);
    const Buffer<float> sums(s.K > kDepth<P> ? most * kTile : kTile);
    for (int64_t i = tiles.begin; i < tiles.end; i += kMostTiles)
      for (int64_t p = panels.begin; p < panels.end; p += kMostPanels)
        multiply_panels<P>(s, a, b, to, {i, std::min(i + kMostTiles, tiles.end)},
                           {p, std::min(p + kMostPanels, panels.end)}, room.get(), sums.get());
  });
}

/// All panels of b [K, N], one after the other.
template <class S, class P>
Buffer<P> packed_panels(Matrix<S> b, int64_t K, int64_t N) {
  const int64_t size = padded(K) * kColumns, panels = ceil_div(N, kColumns);
  Buffer<P> packed(panels * size);
  // By strips, so that b is read row after row.
  at::parallel_for(0, padded(K) / kStrip, 1, [&](int64_t begin, int64_t end) {
    for (int64_t strip = begin; strip < end; ++strip) {
      const int64_t k = strip * kStrip, rows = std::min(kStrip, K - k);
      for (int64_t p = 0; p < panels; ++p) {
        const int64_t n = p * kColumns;
        pack_right<S, P>(b.from(k, n), rows, std::min(kColumns, N - n),
                         packed.get() + p * size + k * kColumns);
      }
    }
  });
  return packed;
}

/// A is packed block by block, and each taken through all of B, which is packed before: where A is
/// widened, or its columns are dense, as those of a gradient's transpose. K, which is a number of
/// tokens there, is the padded one: the micro-kernel is generated, and kept, for each K that it is
/// asked for.
template <class S, class P, class To>
void by_blocks(const Sizes& s, Matrix<S> a, Matrix<S> b, const To& to) {
  const Buffer<P> right = packed_panels<S, P>(b, s.K, s.N);
  const int64_t depth = padded(s.K), size = depth * kColumns;
  share_out(ceil_div(s.M, kRows), ceil_div(s.N, kColumns), [&](Range tiles, Range panels) {
    Buffer<P> left(kRows * depth);
    Buffer<float> tile(kTile);
    for (int64_t i = tiles.begin; i < tiles.end; ++i) {
      const int64_t m = i * kRows, rows = std::min(kRows, s.M - m);
      pack_left<S, P>(a.from(m, 0), rows, s.K, left.get());
      for (int64_t p = panels.begin; p < panels.end; ++p) {
        const int64_t n = p * kColumns;
        multiply<P>({left.get(), depth}, right.get() + p * size, depth, false, tile.get());
        finish(tile.get(), to, m, n, rows, std::min(kColumns, s.N - n));
      }
    }
  });
}

Sizes sizes_of(const at::Tensor& a, const at::Tensor& b) {
  return {a.size(0), b.size(1), a.size(1)};
}

/// What the micro-kernel takes without a copy; all else is packed block by block.
bool is_read_in_place(const at::Tensor& a) { return a.stride(1) == 1 && !widens(a.scalar_type()); }

/// How much of K is multiplied at a time.
int64_t depth_of(const at::Tensor& a) {
  if (is_read_in_place(a)) return a.size(1);
  const int64_t bytes = widens(a.scalar_type()) ? sizeof(float) : a.element_size();
  return kMostPacked / bytes;
}

template <class S, class P, class To>
void multiply_matrices(const at::Tensor& a, const at::Tensor& b, const To& to) {
  const Sizes s = sizes_of(a, b);
  if constexpr (std::is_same_v<S, P>) {
    if (is_read_in_place(a))
      return by_panels<P>(s, DenseRows<P>(matrix_of<P>(a), s.M, s.K), matrix_of<P>(b), to);
  }
  by_blocks<S, P>(s, matrix_of<S>(a), matrix_of<S>(b), to);
}

/// f(S(), P()): the type of the factors' elements, and what the micro-kernel takes of them.
template <class F>
void with_types(at::ScalarType dtype, F f) {
  if (dtype == at::kFloat) return f(float{}, float{});
  if (dtype == at::kHalf) return f(c10::Half{}, float{});
  MEZZO_INTERNAL_CHECK(dtype == at::kBFloat16);
  return widens(dtype) ? f(c10::BFloat16{}, float{}) : f(c10::BFloat16{}, c10::BFloat16{});
}

// -0 leaves every sum as it is, a sum of -0 too.
at::Tensor padded_bias(const at::Tensor& bias, int64_t N) {
  const at::Tensor padded = at::full({ceil_div(N, kColumns) * kColumns}, -0.0f, at::kFloat);
  if (bias.defined()) padded.slice(0, 0, N).copy_(bias);
  return padded;
}

std::string trial_of(at::ScalarType dtype) {
  std::vector<brgemm::Product> products;
  for (const bool accumulates : {false, true})
    products.push_back({kRows, kColumns, 2 * kStrip, 3 * kStrip, kColumns, kColumns, accumulates});
  return brgemm::refusal(dtype, products);
}

bool is_dense(const at::Tensor& x) {
  return (x.stride(1) == 1 && x.stride(0) >= x.size(1)) ||
         (x.stride(0) == 1 && x.stride(1) >= x.size(0));
}

std::string shape_refusal(const at::Tensor& a, const at::Tensor& b) {
  const Sizes s = sizes_of(a, b);
  if (std::min(s.M, s.N) < kLeastSide || s.M * s.N * s.K < kLeastProduct) return "small product";
  if (!is_dense(a) || !is_dense(b)) return "neither rows nor columns are dense";
  if (a.scalar_type() == at::kBFloat16 && is_read_in_place(a) && s.K % 2 != 0) return "K is odd";
  return "";
}

}  // namespace

std::string process_refusal(at::ScalarType dtype) {
  if (dtype == at::kBFloat16 && !widens(dtype)) {
    if (onednn::fills_tiles()) return "oneDNN's own product fills the CPU's tiles (AMX)";
    if (const std::string refusal = brgemm::process_refusal(dtype); !refusal.empty())
      return refusal;
    static const std::string trial = trial_of(at::kBFloat16);
    return trial;
  }
  if (const std::string refusal = onednn::process_refusal(); !refusal.empty()) return refusal;
  if (const std::string refusal = brgemm::process_refusal(at::kFloat); !refusal.empty())
    return refusal;
  static const std::string trial = trial_of(at::kFloat);
  return trial;
}

std::string refusal(const at::Tensor& a, const at::Tensor& b) {
  const std::string refusal = shape_refusal(a, b);
  return refusal.empty() ? process_refusal(a.scalar_type()) : refusal;
}

at::Tensor mm(const at::Tensor& a, const at::Tensor& b, const at::Tensor& bias) {
  const Sizes s = sizes_of(a, b);
  const at::Tensor added = padded_bias(bias, s.N);
  if (s.K > depth_of(a)) {
    const at::Tensor sum = at::zeros({s.M, s.N}, a.options().dtype(at::kFloat));
    add_mm(sum, a, b);
    return sum.add_(added.slice(0, 0, s.N)).to(a.scalar_type());
  }
  const at::Tensor out = at::empty({s.M, s.N}, a.options());
  with_types(a.scalar_type(), [&]<class S, class P>(S, P) {
    multiply_matrices<S, P>(
        a, b, Rounded<S>{out.mutable_data_ptr<S>(), s.N, added.const_data_ptr<float>()});
  });
  return out;
}

void add_mm(const at::Tensor& sum, const at::Tensor& a, const at::Tensor& b) {
  const int64_t K = a.size(1), depth = depth_of(a);
  const Added to{sum.mutable_data_ptr<float>(), sum.stride(0)};
  with_types(a.scalar_type(), [&]<class S, class P>(S, P) {
    for (int64_t k = 0; k < K; k += depth)
      multiply_matrices<S, P>(a.slice(1, k, k + depth), b.slice(0, k, k + depth), to);
  });
}

}  // namespace mezzo::kernels::tiled
