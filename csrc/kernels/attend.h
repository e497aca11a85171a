// Attention of up to 64 queries of a head over one packed block of 64 keys, for the forward pass.
//
// Scores (a register tile of six rows), the exponential, and the product with the values, six rows after six rows, so
// that the packed keys and values (32 KB at head_dim 64) stay in the first-level cache. The sum of a row is kept lane by
// lane and the maximum only as good as needed: it is raised when a score passes it by 8 (in base 2), for that row alone,
// because a row's rounding must not hang on keys that the row does not see. Queries carry scale * log2(e), so that
// probabilities are powers of two; where softcap or ALiBi bend scores these stay natural, and their differences, which
// are small where it matters, are taken to base 2 instead.
#pragma once

#include "bend.h"
#include "tile.h"

namespace openwork::OPENWORK_ISA {
namespace {

constexpr float kSlack = 8.0f;

// 64 queries at work.
struct Queries {
    float *query, *output, *top;
    Vector* sum;    // lane by lane
    float* scores;  // [6][64]
    float* factors;  // [64], dropout
    int64_t head_dim, v_padded;
    const int32_t* order;
    const Bend* bend;
    bool bends, drops;  // whether anything bends scores or drops pairs
    float base;         // what makes a difference of scores one in base 2: 1, or log2(e) for bent scores
};

OPENWORK_INLINE void set_bend(Queries& q, const Bend* bend) {
    q.bend = bend;
    q.bends = bend->scores();
    q.drops = bend->dropout;
    q.base = q.bends ? kLog2e : 1.0f;
}

// Memory for 64 queries, unwritten.
inline Queries make_queries(int64_t head_dim, int64_t v_padded, Scratch& scratch) {
    Queries q{};
    q.head_dim = head_dim;
    q.v_padded = v_padded;
    q.query = scratch.floats(kBlock * head_dim);
    q.output = scratch.floats(kBlock * v_padded);
    q.top = scratch.floats(kBlock);
    q.sum = reinterpret_cast<Vector*>(scratch.floats(kBlock * kLanes));
    q.scores = scratch.floats(kTileRows * kBlock);
    q.factors = scratch.floats(kBlock);
    return q;
}

// Rows that have seen nothing yet, with queries of zeros.
inline void clear_queries(const Queries& q) {
    zero(q.query, kBlock * q.head_dim);
    zero(q.output, kBlock * q.v_padded);
    for (int r = 0; r < kBlock; ++r) {
        q.sum[r] = splat(0.0f);
        q.top[r] = kLowest;
    }
}

template <int rows, int vectors, bool masked>
OPENWORK_INLINE void score_tile(const Queries& q, int row, int first, const float* keys, const uint64_t* bits,
                                Vector* top) {
    Vector sums[rows][vectors];
    clear(sums);
    multiply_add(sums, q.query + row * q.head_dim, q.head_dim, 1, keys + first * kLanes, kBlock, q.head_dim);
    const Vector forbidden = splat(-INFINITY);
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 8
        for (int v = 0; v < vectors; ++v) {
            if constexpr (masked) sums[r][v] = where_set(bits[r] >> ((first + v) * kLanes), sums[r][v], forbidden);
            store(q.scores + r * kBlock + (first + v) * kLanes, sums[r][v]);
            top[r] = larger(top[r], sums[r][v]);
        }
    }
}

template <int rows>
void bend_tile(const Queries& q, int row, const int32_t* keys, const uint64_t* bits, Vector* top) {
    const Vector forbidden = splat(-INFINITY);
    for (int r = 0; r < rows; ++r) {
        float* scores = q.scores + r * kBlock;
        bend_row(scores, *q.bend, q.order[row + r], keys, nullptr);
        top[r] = splat(kLowest);
        for (int v = 0; v < kBlockVectors; ++v) {
            Vector x = load(scores + v * kLanes);
            if (bits != nullptr) x = where_set(bits[r] >> (v * kLanes), x, forbidden);
            store(scores + v * kLanes, x);
            top[r] = larger(top[r], x);
        }
    }
}

template <int rows>
__attribute__((noinline)) void raise_tops(const Queries& q, int row, const Vector* top) {
    for (int r = row; r < row + rows; ++r) {
        const float found = largest_of(top[r - row]);
        if (!(found > q.top[r] + kSlack)) continue;
        const Vector shrink = exp2_of(splat((q.top[r] - found) * q.base));
        q.top[r] = found;
        q.sum[r] = q.sum[r] * shrink;
        float* output = q.output + r * q.v_padded;
        for (int64_t c = 0; c < q.v_padded; c += kLanes) store(output + c, load(output + c) * shrink);
    }
}

template <int rows, bool masked>
void attend_tile(const Queries& q, int row, const float* keys, const float* values, const int32_t* kv_order,
                 const uint64_t* bits) {
    int first = 0, stop = kBlockVectors;
    if constexpr (masked) {
        uint64_t any = 0;
        for (int r = 0; r < rows; ++r) any |= bits[r];
        if (any == 0) return;
        first = __builtin_ctzll(any) / kLanes;
        stop = (63 - __builtin_clzll(any)) / kLanes + 1;
    }
    Vector top[rows];
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) top[r] = splat(kLowest);
    if (!q.bends) {
        for_vectors(first, stop - first, [&]<int vectors>(int v) {
            score_tile<rows, vectors, masked>(q, row, v, keys, bits, top);
        });
    } else {
        for_vectors(0, kBlockVectors, [&]<int vectors>(int v) {
            score_tile<rows, vectors, false>(q, row, v, keys, bits, top);
        });
        bend_tile<rows>(q, row, kv_order, masked ? bits : nullptr, top);
    }
    Vector excess = top[0] - splat(q.top[row] + kSlack);
#pragma GCC unroll 8
    for (int r = 1; r < rows; ++r) excess = larger(excess, top[r] - splat(q.top[row + r] + kSlack));
    if (any_above(excess, splat(0.0f))) raise_tops<rows>(q, row, top);
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) {
        const Vector highest = splat(q.top[row + r]);
        Vector sum = q.sum[row + r];
        float* scores = q.scores + r * kBlock;
        for (int v = first; v < stop; ++v) {
            Vector below = load(scores + v * kLanes) - highest;
            if (q.bends) below *= splat(q.base);
            const Vector p = exp2_of(below);
            sum += p;
            store(scores + v * kLanes, p);
        }
        q.sum[row + r] = sum;
    }
    if (q.drops) {
        for (int r = 0; r < rows; ++r) {
            keep_row(q.factors, *q.bend, q.order[row + r], kv_order);
            for (int k = 0; k < kBlock; ++k) q.scores[r * kBlock + k] *= q.factors[k];
        }
    }
    const Factors f{q.scores + first * kLanes, kBlock, 1, values + first * kLanes * q.v_padded, q.v_padded,
                    int64_t{stop - first} * kLanes};
    add_product<rows>(q.output + row * q.v_padded, q.v_padded, q.v_padded, f);
}

template <int rows>
OPENWORK_INLINE void attend_rows(const Queries& q, int row, const float* packed, const int32_t* kv_order,
                                 const uint64_t* mask) {
    const float* values = packed + q.head_dim * kBlock;
    if (mask != nullptr)
        attend_tile<rows, true>(q, row, packed, values, kv_order, mask + row);
    else
        attend_tile<rows, false>(q, row, packed, values, kv_order, nullptr);
}

// The first `num_rows` queries against one packed block; `mask` is nullptr where every pair is allowed.
inline void attend_block(const Queries& q, int num_rows, const float* packed, const int32_t* kv_order,
                         const uint64_t* mask) {
    // what is left over takes fewer rows, which matters where there are few queries at all: one token upon a cache
    constexpr int few = kBlock % kTileRows;
    int row = 0;
    for (; row + few < num_rows; row += kTileRows) attend_rows<kTileRows>(q, row, packed, kv_order, mask);
    if (row + 1 == num_rows)
        attend_rows<1>(q, row, packed, kv_order, mask);
    else if (row < num_rows)
        attend_rows<few>(q, row, packed, kv_order, mask);
}

}  // namespace
}  // namespace openwork::OPENWORK_ISA
