#include <limits>
#include <numbers>

#include <ATen/Parallel.h>

#include "mezzo/kernels/attention/flash.h"
#include "mezzo/kernels/attention/geometry.h"
#include "mezzo/kernels/attention/pack.h"
#include "mezzo/kernels/matmul/brgemm.h"
#include "mezzo/kernels/simd/exp2.h"
#include "mezzo/kernels/simd/numbers.h"

namespace mezzo::kernels::flash {
namespace {

/// [kQueries] each, of a query tile. A query that is padding has logsumexp Inf: it sees nothing.
struct OfQueries {
  const float *logsumexp, *delta;  // times log2 e; rowsum(dO * O)
};

/// P^T and dS^T of a tile, as left operands [keys][kQueries]; dS^T as right operand too. dS is
/// still to be multiplied by the scale.
template <class P>
struct Gradients {
  P *probabilities, *scores, *scores_right;
};

/// From S^T, not yet scaled, and dP^T, both [keys][kQueries].
template <class P>
MEZZO_INLINE void differentiate(const float* scores, const float* grad_probabilities, Tile tile,
                                float scale, OfQueries of, Gradients<P> to) {
  const int64_t rows = padded(tile.keys);
  for (int64_t k = 0; k < rows; k += kInWord<P>) {
    float p[kInWord<P>][kQueries], ds[kInWord<P>][kQueries];
    for (int64_t i = 0; i < kInWord<P>; ++i) {
      const int64_t at = (k + i) * kQueries;
      const int32_t first = tile.first_query(k + i);
      for (int32_t q = 0; q < kQueries; ++q) {
        const float seen = exp2_of(scores[at + q] * scale - of.logsumexp[q]);
        const float gradient = seen * (grad_probabilities[at + q] - of.delta[q]);
        p[i][q] = q >= first ? seen : 0.0f;
        ds[i][q] = q >= first ? gradient : 0.0f;
      }
      put_row(p[i], to.probabilities + at);
      put_row(ds[i], to.scores + at);
    }
    if (to.scores_right != to.scores) put_rows(ds, to.scores_right + k * kQueries);
  }
}

template <class T>
MEZZO_INLINE float product_of_rows(const T* a, const T* b, int64_t E) {
  float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
  for (int64_t e = 0; e < E; ++e) sum += wide(a[e]) * wide(b[e]);
  return sum;
}

template <class T>
struct KeyHead {
  Rows<const T> key, value;
  Rows<T> grad_key, grad_value;
};

template <class T>
struct QueryHead {
  Rows<const T> query, out, grad_out;
  Rows<const float> logsumexp;
  Rows<T> grad_query;
};

/// All heads of all tensors.
template <class T>
struct Heads {
  const Geometry& g;
  at::Tensor query, key, value, out, grad_out, logsumexp;
  InputGradients grads;

  KeyHead<T> keys_of(int64_t key_head) const {
    return {rows_of<const T>(key, key_head), rows_of<const T>(value, key_head),
            rows_of<T>(grads.key, key_head), rows_of<T>(grads.value, key_head)};
  }
  /// Those that a query tile of the key head is of.
  QueryHead<T> queries_of(int64_t key_head, int64_t query_tile) const {
    const int64_t head = g.query_head(key_head, query_tile);
    return {rows_of<const T>(query, head), rows_of<const T>(out, head),
            rows_of<const T>(grad_out, head), rows_of<const float>(logsumexp, head),
            rows_of<T>(grads.query, head)};
  }
};

/// The operands of a key head and its group, tile by tile: the left ones row by row, the others as
/// their products take them.
template <class T>
class Operands {
 public:
  using P = Operand<T>;

  explicit Operands(const Geometry& g)
      : g_(g),
        keys_(g.key_tiles * key_size()),
        keys_left_(g.key_tiles * key_size()),
        values_(g.key_tiles * key_size()),
        queries_(g.query_tiles * query_size()),
        queries_right_(g.query_tiles * query_size()),
        grads_(g.query_tiles * query_size()),
        grads_right_(g.query_tiles * query_size()),
        statistics_(g.query_tiles * 2 * kQueries) {}

  const P* key(int64_t tile) const { return keys_.get() + tile * key_size(); }
  const P* key_transposed(int64_t tile) const { return keys_left_.get() + tile * key_size(); }
  const P* value(int64_t tile) const { return values_.get() + tile * key_size(); }
  const P* query(int64_t tile) const { return queries_.get() + tile * query_size(); }
  const P* query_transposed(int64_t tile) const {
    return queries_right_.get() + tile * query_size();
  }
  const P* grad(int64_t tile) const { return grads_.get() + tile * query_size(); }
  const P* grad_transposed(int64_t tile) const { return grads_right_.get() + tile * query_size(); }
  OfQueries of_queries(int64_t tile) const {
    const float* at = statistics_.get() + tile * 2 * kQueries;
    return {at, at + kQueries};
  }

  /// Room that packing takes: one a thread.
  Buffer<P> room() const { return Buffer<P>(key_size()); }

  void pack_keys(const KeyHead<T>& head, int64_t tile, const Buffer<P>& room) {
    const int64_t first = tile * kKeys, count = std::min(kKeys, g_.Tk - first), E = g_.padded_E;
    P* rows = keys_.get() + tile * key_size();
    simd<load<T, P>>(head.key.at(first), head.key.stride, count, g_.E, rows, kKeys, E);
    simd<load<T, P>>(head.value.at(first), head.value.stride, count, g_.E,
                     values_.get() + tile * key_size(), kKeys, E);
    pack_transposed_left(right_operand<P>(rows, kKeys, E, room.get()), kKeys, E,
                         keys_left_.get() + tile * key_size());
  }

  void pack_queries(const QueryHead<T>& head, int64_t tile, const Buffer<P>& room) {
    const int64_t at = tile * query_size();
    pack_rows(head.query, tile, queries_.get() + at, queries_right_.get() + at, room);
    pack_rows(head.grad_out, tile, grads_.get() + at, grads_right_.get() + at, room);
    float* logsumexp = statistics_.get() + tile * 2 * kQueries;
    float* delta = logsumexp + kQueries;
    for (int64_t q = 0; q < kQueries; ++q) {
      const int64_t t = g_.start(tile) + q;
      const bool is_padding = t >= g_.Tq;
      logsumexp[q] =
          is_padding ? std::numeric_limits<float>::infinity() : *head.logsumexp.at(t) * kLog2OfE;
      delta[q] =
          is_padding ? 0.0f : simd<product_of_rows<T>>(head.grad_out.at(t), head.out.at(t), g_.E);
    }
  }

 private:
  int64_t key_size() const { return kKeys * g_.padded_E; }
  int64_t query_size() const { return kQueries * g_.padded_E; }

  void pack_rows(Rows<const T> from, int64_t tile, P* right, P* transposed, const Buffer<P>& room) {
    const int64_t E = g_.padded_E;
    P* rows = std::is_same_v<P, float> ? right : room.get();
    simd<load<T, P>>(from.at(g_.start(tile)), from.stride, g_.queries(tile), g_.E, rows, kQueries,
                     E);
    right_operand<P>(rows, kQueries, E, right);
    pack_transposed_right<P>(rows, kQueries, E, transposed);
  }

  const Geometry& g_;
  Buffer<P> keys_, keys_left_, values_, queries_, queries_right_, grads_, grads_right_;
  Buffer<float> statistics_;
};

/// A thread's room for one tile, and the sums of a key head and its group or a part of them. Those
/// of a tile of keys go over the queries of the whole group, in one order: the bits are the same
/// whether a thread has the key head to itself or not.
template <class T>
class Differentiation {
 public:
  using P = Operand<T>;

  /// query_tiles: how many of dQ are summed at the same time.
  Differentiation(const Geometry& g, double scale, int64_t query_tiles)
      : g_(g),
        scale_(static_cast<float>(scale)),
        scale_of_powers_(static_cast<float>(scale * std::numbers::log2e)),
        scores_(kKeys * kQueries),
        grad_probabilities_(kKeys * kQueries),
        gradients_(3 * kKeys * kQueries),
        grad_key_(kKeys * g.padded_E),
        grad_value_(kKeys * g.padded_E),
        grad_query_(query_tiles * kQueries * g.padded_E),
        rows_(kQueries * g.padded_E) {}

  /// All three gradients of a key head and its group.
  void whole(const Heads<T>& heads, int64_t head, const Operands<T>& operands) {
    for (int64_t k = 0; k < g_.key_tiles; ++k) {
      clear_key_sums();
      for (int64_t q = 0; q < g_.query_tiles; ++q) {
        const Tile tile(g_, q, k);
        if (tile.keys == 0) continue;
        differentiate_tile(operands, q, k, tile);
        add_to_keys(operands, q, tile);
        add_to_queries(operands, k, tile, q);
      }
      store_keys(heads.keys_of(head), k);
    }
    for (int64_t q = 0; q < g_.query_tiles; ++q) store_queries(heads.queries_of(head, q), q, q);
  }

  /// grad_key and grad_value of a tile of keys.
  void keys(const KeyHead<T>& head, const Operands<T>& operands, int64_t k) {
    clear_key_sums();
    for (int64_t q = 0; q < g_.query_tiles; ++q) {
      const Tile tile(g_, q, k);
      if (tile.keys == 0) continue;
      differentiate_tile(operands, q, k, tile);
      add_to_keys(operands, q, tile);
    }
    store_keys(head, k);
  }

  /// grad_query of a tile of queries.
  void queries(const QueryHead<T>& head, const Operands<T>& operands, int64_t q) {
    for (int64_t k = 0; k < g_.key_tiles; ++k) {
      const Tile tile(g_, q, k);
      if (tile.keys == 0) break;
      differentiate_tile(operands, q, k, tile);
      add_to_queries(operands, k, tile, 0);
    }
    store_queries(head, q, 0);
  }

 private:
  void clear_key_sums() {
    std::fill_n(grad_key_.get(), kKeys * g_.padded_E, 0.0f);
    std::fill_n(grad_value_.get(), kKeys * g_.padded_E, 0.0f);
  }

  void differentiate_tile(const Operands<T>& operands, int64_t q, int64_t k, Tile tile) {
    const int64_t E = g_.padded_E;
    const brgemm::Product scores = {padded(tile.keys), kQueries, E, E, kQueries, kQueries, false};
    brgemm::multiply<P>(scores, operands.key(k), operands.query_transposed(q), scores_.get());
    brgemm::multiply<P>(scores, operands.value(k), operands.grad_transposed(q),
                        grad_probabilities_.get());
    simd<differentiate<P>>(static_cast<const float*>(scores_.get()),
                           static_cast<const float*>(grad_probabilities_.get()), tile,
                           scale_of_powers_, operands.of_queries(q), gradients());
  }

  void add_to_keys(const Operands<T>& operands, int64_t q, Tile tile) {
    const int64_t E = g_.padded_E;
    const brgemm::Product sum = {padded(tile.keys), E, kQueries, kQueries, E, E, true};
    brgemm::multiply<P>(sum, gradients().probabilities, operands.grad(q), grad_value_.get());
    brgemm::multiply<P>(sum, gradients().scores, operands.query(q), grad_key_.get());
  }

  void add_to_queries(const Operands<T>& operands, int64_t k, Tile tile, int64_t slot) {
    const int64_t E = g_.padded_E;
    const bool is_first = k == 0;
    brgemm::multiply<P>({E, kQueries, padded(tile.keys), kKeys, kQueries, kQueries, !is_first},
                        operands.key_transposed(k), gradients().scores_right,
                        grad_query_.get() + slot * kQueries * E);
  }

  void store_keys(const KeyHead<T>& head, int64_t k) {
    const int64_t first = k * kKeys, count = std::min(kKeys, g_.Tk - first);
    store(grad_key_.get(), scale_, count, head.grad_key, first);
    store(grad_value_.get(), 1.0f, count, head.grad_value, first);
  }

  void store_queries(const QueryHead<T>& head, int64_t q, int64_t slot) {
    const float* sums = grad_query_.get() + slot * kQueries * g_.padded_E;
    simd<brgemm::transpose<float>>(static_cast<const float*>(sums), kQueries, g_.padded_E, kQueries,
                                   rows_.get(), g_.padded_E);
    store(rows_.get(), scale_, g_.queries(q), head.grad_query, g_.start(q));
  }

  void store(const float* from, float factor, int64_t count, Rows<T> to, int64_t first) {
    for (int64_t r = 0; r < count; ++r)
      simd<store_row<T>>(from + r * g_.padded_E, factor, g_.E, to.at(first + r));
  }

  Gradients<P> gradients() const {
    P* at = gradients_.get();
    P* scores = at + kKeys * kQueries;
    // A float is a right operand as it lies.
    return {at, scores, std::is_same_v<P, float> ? scores : scores + kKeys * kQueries};
  }

  const Geometry& g_;
  float scale_, scale_of_powers_;
  Buffer<float> scores_, grad_probabilities_;
  Buffer<P> gradients_;
  Buffer<float> grad_key_, grad_value_, grad_query_, rows_;
};

/// Five products a tile if a head is one thread's; four for its keys and three for its queries if
/// they are dealt out, with scores and probabilities computed twice.
constexpr double kPriceOfTiles = 7.0 / 5.0;

template <class T>
void differentiate_heads(const Geometry& g, double scale, const Heads<T>& heads) {
  at::parallel_for(0, g.key_heads, 1, [&](int64_t begin, int64_t end) {
    const brgemm::ThreadState state;
    Operands<T> operands(g);
    const auto room = operands.room();
    Differentiation<T> differentiation(g, scale, g.query_tiles);
    for (int64_t head = begin; head < end; ++head) {
      for (int64_t k = 0; k < g.key_tiles; ++k) operands.pack_keys(heads.keys_of(head), k, room);
      for (int64_t q = 0; q < g.query_tiles; ++q)
        operands.pack_queries(heads.queries_of(head, q), q, room);
      differentiation.whole(heads, head, operands);
    }
  });
}

/// Key heads [first, first + count), whose operands are packed into `operands`.
template <class T>
void differentiate_tiles(const Geometry& g, double scale, const Heads<T>& heads, int64_t first,
                         int64_t count, std::vector<Operands<T>>& operands) {
  // The tiles of keys come first, then those of queries.
  const int64_t tiles = g.key_tiles + g.query_tiles;
  at::parallel_for(0, count * tiles, 1, [&](int64_t begin, int64_t end) {
    const auto room = operands[0].room();
    for (int64_t i = begin; i < end; ++i) {
      const int64_t slot = i / tiles, head = first + slot, tile = i % tiles;
      if (tile < g.key_tiles) {
        operands[slot].pack_keys(heads.keys_of(head), tile, room);
      } else {
        const int64_t q = tile - g.key_tiles;
        operands[slot].pack_queries(heads.queries_of(head, q), q, room);
      }
    }
  });
  at::parallel_for(0, count * g.key_tiles, 1, [&](int64_t begin, int64_t end) {
    const brgemm::ThreadState state;
    Differentiation<T> differentiation(g, scale, 1);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t slot = i / g.key_tiles, tile = balanced(i % g.key_tiles, g.key_tiles);
      differentiation.keys(heads.keys_of(first + slot), operands[slot], tile);
    }
  });
  at::parallel_for(0, count * g.query_tiles, 1, [&](int64_t begin, int64_t end) {
    const brgemm::ThreadState state;
    Differentiation<T> differentiation(g, scale, 1);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t slot = i / g.query_tiles, tile = balanced(i % g.query_tiles, g.query_tiles);
      differentiation.queries(heads.queries_of(first + slot, tile), operands[slot], tile);
    }
  });
}

template <class T>
void differentiate_tiles(const Geometry& g, double scale, const Heads<T>& heads) {
  const int64_t most = heads_at_once(g.key_heads, g.key_tiles);
  std::vector<Operands<T>> operands;
  for (int64_t i = 0; i < most; ++i) operands.emplace_back(g);
  for (int64_t head = 0; head < g.key_heads; head += most)
    differentiate_tiles<T>(g, scale, heads, head, std::min(most, g.key_heads - head), operands);
}

}  // namespace

void backward_into(const InputGradients& grads, const at::Tensor& grad_out, const at::Tensor& query,
                   const at::Tensor& key, const at::Tensor& value, const at::Tensor& out,
                   const at::Tensor& logsumexp, bool is_causal, double scale) {
  const Geometry g(query, key, is_causal);
  with_type_of(query, [&]<class T>(T) {
    const Heads<T> heads{g,
                         with_dense_rows(query),
                         with_dense_rows(key),
                         with_dense_rows(value),
                         with_dense_rows(out),
                         with_dense_rows(grad_out),
                         logsumexp,
                         grads};
    if (takes_whole_heads(g.key_heads, kPriceOfTiles)) {
      differentiate_heads(g, scale, heads);
    } else {
      differentiate_tiles(g, scale, heads);
    }
  });
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> backward(
    const at::Tensor& grad_out, const at::Tensor& query, const at::Tensor& key,
    const at::Tensor& value, const at::Tensor& out, const at::Tensor& logsumexp, bool is_causal,
    double scale) {
  const InputGradients grads{empty_rows_like(query), empty_rows_like(key), empty_rows_like(value)};
  backward_into(grads, grad_out, query, key, value, out, logsumexp, is_causal, scale);
  return {grads.query, grads.key, grads.value};
}

}  // namespace mezzo::kernels::flash
