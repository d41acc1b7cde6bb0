#pragma once

#include <algorithm>
#include <cstdint>

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>

#include "mezzo/kernels/ceil_div.h"

namespace mezzo::kernels::flash {

// Note [Scores stand transposed]
// A tile holds the scores of kQueries queries with up to kKeys keys as S^T [keys][kQueries]: a row
// a key, a column a query. What belongs to a query (maximum, sum, logsumexp) is then a vector along
// the row, so no loop sums across a vector; and exp(S^T) and dS^T lie as the next product wants
// them:
//   forward   S^T = K Q^T      O^T += V^T P^T
//   backward  S^T = K Q^T      dP^T = V dO^T     dV += P^T dO    dK += dS^T Q    dQ^T += K^T dS^T
// Softmax is taken in powers of two: log2 e is multiplied into the scale and into logsumexp, and
// exp(score) is exp2_of(scaled score).
// Rows and head sizes are padded with zeros to multiples of kStep, so that few products (brgemm.h
// generates code for each) serve every length.

constexpr int64_t kQueries = 64;
constexpr int64_t kKeys = 128;
constexpr int64_t kStep = 32;
constexpr int64_t kMaxHeadSize = 256;

constexpr int64_t padded(int64_t length) { return ceil_div(length, kStep) * kStep; }

/// query [B, H, Tq, E], key and value [B, K, Tk, E]. A key head is worked on together with its
/// group, the query heads that read it: its query tiles are those of the group, head by head.
struct Geometry {
  Geometry(const at::Tensor& query, const at::Tensor& key, bool causal)
      : key_heads(key.size(0) * key.size(1)),
        group(query.size(1) / key.size(1)),
        Tq(query.size(2)),
        Tk(key.size(2)),
        E(query.size(3)),
        padded_E(padded(E)),
        tiles_a_query_head(ceil_div(Tq, kQueries)),
        query_tiles(group * tiles_a_query_head),
        key_tiles(ceil_div(Tk, kKeys)),
        is_causal(causal) {}

  /// The query head, of all B H, whose queries are in a tile of a key head.
  int64_t query_head(int64_t key_head, int64_t query_tile) const {
    return key_head * group + query_tile / tiles_a_query_head;
  }
  /// The place in its head of a tile's first query.
  int64_t start(int64_t query_tile) const { return query_tile % tiles_a_query_head * kQueries; }
  /// How many queries a tile has.
  int64_t queries(int64_t query_tile) const { return std::min(kQueries, Tq - start(query_tile)); }

  int64_t key_heads, group, Tq, Tk, E, padded_E, tiles_a_query_head, query_tiles, key_tiles;
  bool is_causal;
};

/// What a query tile has to do with a key tile.
struct Tile {
  Tile(const Geometry& g, int64_t query_tile, int64_t key_tile)
      : queries(g.queries(query_tile)),
        shift(g.is_causal ? key_tile * kKeys - g.start(query_tile) : -kKeys) {
    keys = std::min(kKeys, g.Tk - key_tile * kKeys);
    if (g.is_causal) keys = std::clamp<int64_t>(queries - shift, 0, keys);
  }

  /// The first query of the tile that sees its key k; kQueries if none does.
  constexpr int32_t first_query(int64_t k) const {
    return static_cast<int32_t>(k < keys ? k + shift : kQueries);
  }

  int64_t queries;  // in the tile
  int64_t keys;     // that any of them sees
  int64_t shift;    // query q sees key k, both counted from the tile's corner, if q >= k + shift
};

/// True if each thread had better take whole heads; otherwise the tiles of all heads are dealt out,
/// which costs `price_of_tiles` times as much work but leaves no thread idle.
inline bool takes_whole_heads(int64_t heads, double price_of_tiles) {
  const int64_t threads = at::get_num_threads();
  const double rounds = static_cast<double>(ceil_div(heads, threads));
  return rounds * static_cast<double>(threads) <= price_of_tiles * static_cast<double>(heads);
}

/// How many heads are packed at a time where their tiles are dealt out, `tiles` of each: as few as
/// give every thread several tiles, so that none is idle for long.
inline int64_t heads_at_once(int64_t heads, int64_t tiles) {
  constexpr int64_t kTilesAThread = 4;
  const int64_t least = ceil_div(kTilesAThread * at::get_num_threads(), tiles);
  return ceil_div(heads, std::max<int64_t>(1, heads / least));
}

/// The tile at turn i of n: first, last, second, second to last ... Under a causal mask one end has
/// little work and the other much; neighbours in this order have the same together.
constexpr int64_t balanced(int64_t i, int64_t n) { return i % 2 == 0 ? i / 2 : n - 1 - i / 2; }

}  // namespace mezzo::kernels::flash
