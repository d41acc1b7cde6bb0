#include <cmath>
#include <limits>
#include <numbers>

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include "mezzo/kernels/attention/flash.h"
#include "mezzo/kernels/attention/geometry.h"
#include "mezzo/kernels/attention/pack.h"
#include "mezzo/kernels/matmul/brgemm.h"
#include "mezzo/kernels/simd/exp2.h"

namespace mezzo::kernels::flash {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

/// What a query tile knows of the keys so far, [kQueries] each.
struct Running {
  float* top;      // the largest scaled score
  float* sum;      // of 2^(score - top)
  float* shrinks;  // 2^(previous top - top): what sum and output are multiplied by
};

/// Takes a tile's largest scores into account. scores [keys][kQueries], not yet scaled.
MEZZO_INLINE void raise_top(const float* scores, Tile tile, float scale, Running running) {
  float top[kQueries];
  for (int64_t q = 0; q < kQueries; ++q) top[q] = running.top[q];
  for (int64_t k = 0; k < tile.keys; ++k) {
    const float* row = scores + k * kQueries;
    const int32_t first = tile.first_query(k);
    for (int32_t q = 0; q < kQueries; ++q) {
      const float score = q >= first ? row[q] * scale : -kInfinity;
      top[q] = score > top[q] ? score : top[q];
    }
  }
  for (int64_t q = 0; q < kQueries; ++q) {
    // No score above -Inf: 0 keeps 2^(score - top) at 0, and at NaN where a score is NaN.
    const float before = running.top[q], now = top[q] == -kInfinity ? 0.0f : top[q];
    running.shrinks[q] = exp2_of(before - now);
    running.sum[q] *= running.shrinks[q];
    running.top[q] = top[q];
  }
}

/// 2^(score - top) to `probabilities`, as the right operand with K = padded(keys), and its sum.
template <class P>
MEZZO_INLINE void exponentiate(const float* scores, Tile tile, float scale, Running running,
                               P* probabilities) {
  float top[kQueries], sum[kQueries];
  for (int64_t q = 0; q < kQueries; ++q) {
    top[q] = running.top[q] == -kInfinity ? 0.0f : running.top[q];
    sum[q] = running.sum[q];
  }
  const int64_t rows = padded(tile.keys);
  for (int64_t k = 0; k < rows; k += kInWord<P>) {
    float p[kInWord<P>][kQueries];
    for (int64_t i = 0; i < kInWord<P>; ++i) {
      const float* row = scores + (k + i) * kQueries;
      const int32_t first = tile.first_query(k + i);
      for (int32_t q = 0; q < kQueries; ++q) {
        p[i][q] = q >= first ? exp2_of(row[q] * scale - top[q]) : 0.0f;
        sum[q] += p[i][q];
      }
    }
    put_rows(p, probabilities + k * kQueries);
  }
  for (int64_t q = 0; q < kQueries; ++q) running.sum[q] = sum[q];
}

MEZZO_INLINE void shrink(float* out, int64_t rows, const float* factors) {
  for (int64_t e = 0; e < rows; ++e)
    for (int64_t q = 0; q < kQueries; ++q) out[e * kQueries + q] *= factors[q];
}

/// A key head's keys as left operand, row by row, and its values transposed, [key tile][E][kKeys].
template <class T>
class Keys {
 public:
  using P = Operand<T>;

  explicit Keys(const Geometry& g)
      : tile_size_(kKeys * g.padded_E),
        keys_(g.key_tiles * tile_size_),
        values_(g.key_tiles * tile_size_) {}

  int64_t packing_room() const { return 2 * tile_size_; }
  const P* key(int64_t tile) const { return keys_.get() + tile * tile_size_; }
  const P* value(int64_t tile) const { return values_.get() + tile * tile_size_; }

  /// room: for packing_room() numbers.
  void pack(const Geometry& g, Rows<const T> key, Rows<const T> value, int64_t tile, P* room) {
    const int64_t first = tile * kKeys, count = std::min(kKeys, g.Tk - first);
    simd<load<T, P>>(key.at(first), key.stride, count, g.E, keys_.get() + tile * tile_size_, kKeys,
                     g.padded_E);
    simd<load<T, P>>(value.at(first), value.stride, count, g.E, room, kKeys, g.padded_E);
    pack_transposed_left(right_operand<P>(room, kKeys, g.padded_E, room + tile_size_), kKeys,
                         g.padded_E, values_.get() + tile * tile_size_);
  }

 private:
  int64_t tile_size_;
  Buffer<P> keys_, values_;
};

/// A thread's room for one query tile at a time.
template <class T>
class QueryTile {
 public:
  using P = Operand<T>;

  explicit QueryTile(const Geometry& g)
      : g_(g),
        rows_(kQueries * g.padded_E),
        query_(kQueries * g.padded_E),
        scores_(kKeys * kQueries),
        probabilities_(kKeys * kQueries),
        out_(kQueries * g.padded_E),
        out_rows_(kQueries * g.padded_E),
        statistics_(3 * kQueries) {}

  void attend(Rows<const T> query, const Keys<T>& keys, float scale, int64_t query_tile,
              Rows<T> out, Rows<float> logsumexp) {
    load_query(query, query_tile);
    for (int64_t key_tile = 0; key_tile < g_.key_tiles; ++key_tile) {
      const Tile tile(g_, query_tile, key_tile);
      if (tile.keys == 0) break;
      add(keys, key_tile, tile, scale);
    }
    store_out(out, logsumexp, query_tile);
  }

 private:
  void load_query(Rows<const T> query, int64_t query_tile) {
    simd<load<T, P>>(query.at(g_.start(query_tile)), query.stride, g_.queries(query_tile), g_.E,
                     rows_.get(), kQueries, g_.padded_E);
    pack_transposed_right<P>(rows_.get(), kQueries, g_.padded_E, query_.get());
    std::fill_n(running_.top, kQueries, -kInfinity);
    std::fill_n(running_.sum, kQueries, 0.0f);
  }

  void add(const Keys<T>& keys, int64_t key_tile, Tile tile, float scale) {
    const int64_t rows = padded(tile.keys), E = g_.padded_E;
    float* scores = scores_.get();
    P* probabilities = probabilities_.get();
    brgemm::multiply<P>({rows, kQueries, E, E, kQueries, kQueries, false}, keys.key(key_tile),
                        query_.get(), scores);
    simd<raise_top>(static_cast<const float*>(scores), tile, scale, running_);
    simd<exponentiate<P>>(static_cast<const float*>(scores), tile, scale, running_, probabilities);
    const bool is_first = key_tile == 0;
    if (!is_first) simd<shrink>(out_.get(), E, static_cast<const float*>(running_.shrinks));
    brgemm::multiply<P>({E, kQueries, rows, kKeys, kQueries, kQueries, !is_first},
                        keys.value(key_tile), probabilities, out_.get());
  }

  void store_out(Rows<T> out, Rows<float> logsumexp, int64_t query_tile) {
    const int64_t first = g_.start(query_tile), queries = g_.queries(query_tile);
    simd<brgemm::transpose<float>>(static_cast<const float*>(out_.get()), kQueries, g_.padded_E,
                                   kQueries, out_rows_.get(), g_.padded_E);
    for (int64_t q = 0; q < queries; ++q) {
      const float* row = out_rows_.get() + q * g_.padded_E;
      simd<store_row<T>>(row, 1.0f / running_.sum[q], g_.E, out.at(first + q));
      *logsumexp.at(first + q) = kLnOf2 * running_.top[q] + std::log(running_.sum[q]);
    }
  }

  const Geometry& g_;
  Buffer<P> rows_, query_;
  Buffer<float> scores_;
  Buffer<P> probabilities_;
  Buffer<float> out_, out_rows_, statistics_;
  Running running_{statistics_.get(), statistics_.get() + kQueries,
                   statistics_.get() + 2 * kQueries};
};

/// A thread alone with a key head keeps its keys in its own cache; this is what that is worth.
constexpr double kPriceOfTiles = 1.1;

template <class T>
void attend(const Geometry& g, const at::Tensor& query, const at::Tensor& key,
            const at::Tensor& value, float scale, const at::Tensor& out,
            const at::Tensor& logsumexp) {
  using Room = Buffer<Operand<T>>;
  const auto pack = [&](Keys<T>& keys, int64_t head, int64_t tile, const Room& room) {
    keys.pack(g, rows_of<const T>(key, head), rows_of<const T>(value, head), tile, room.get());
  };
  const auto run = [&](QueryTile<T>& tile, const Keys<T>& keys, int64_t key_head, int64_t i) {
    const int64_t head = g.query_head(key_head, i);
    const Rows<float> lse = rows_of<float>(logsumexp, head);
    tile.attend(rows_of<const T>(query, head), keys, scale, i, rows_of<T>(out, head), lse);
  };
  if (takes_whole_heads(g.key_heads, kPriceOfTiles)) {
    at::parallel_for(0, g.key_heads, 1, [&](int64_t begin, int64_t end) {
      const brgemm::ThreadState state;
      Keys<T> keys(g);
      const Room room(keys.packing_room());
      QueryTile<T> tile(g);
      for (int64_t head = begin; head < end; ++head) {
        for (int64_t i = 0; i < g.key_tiles; ++i) pack(keys, head, i, room);
        for (int64_t i = 0; i < g.query_tiles; ++i) run(tile, keys, head, i);
      }
    });
    return;
  }
  const int64_t most = heads_at_once(g.key_heads, g.query_tiles);
  std::vector<Keys<T>> keys;
  for (int64_t i = 0; i < most; ++i) keys.emplace_back(g);
  for (int64_t head = 0; head < g.key_heads; head += most) {
    const int64_t count = std::min(most, g.key_heads - head);
    at::parallel_for(0, count * g.key_tiles, 1, [&](int64_t begin, int64_t end) {
      const Room room(keys[0].packing_room());
      for (int64_t i = begin; i < end; ++i)
        pack(keys[i / g.key_tiles], head + i / g.key_tiles, i % g.key_tiles, room);
    });
    at::parallel_for(0, count * g.query_tiles, 1, [&](int64_t begin, int64_t end) {
      const brgemm::ThreadState state;
      QueryTile<T> tile(g);
      for (int64_t i = begin; i < end; ++i) {
        const int64_t slot = i / g.query_tiles;
        run(tile, keys[slot], head + slot, balanced(i % g.query_tiles, g.query_tiles));
      }
    });
  }
}

}  // namespace

std::tuple<at::Tensor, at::Tensor> forward(const at::Tensor& query, const at::Tensor& key,
                                           const at::Tensor& value, bool is_causal, double scale) {
  const Geometry g(query, key, is_causal);
  const at::Tensor q = with_dense_rows(query), k = with_dense_rows(key), v = with_dense_rows(value);
  at::Tensor out = empty_rows_like(q);
  at::Tensor logsumexp = at::empty({q.size(0), g.Tq, q.size(1)}, q.options().dtype(at::kFloat));
  logsumexp = logsumexp.transpose(1, 2);
  const auto scale_of_powers = static_cast<float>(scale * std::numbers::log2e);
  with_type_of(q, [&]<class T>(T) { attend<T>(g, q, k, v, scale_of_powers, out, logsumexp); });
  return {out, logsumexp};
}

}  // namespace mezzo::kernels::flash
