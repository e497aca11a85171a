// One block of 64 queries and 64 keys in the backward pass: P and dS, then the three products with them.
//
// Six rows of queries after the other give P and dS, which lie in the first-level cache (2 x 16 KB). dQ goes to its rows
// at once; dK and dV of the key block are summed in scratch memory until the unit moves on to the next one. Under a mask
// every group of six rows has a range of keys outside of which it sees nothing, and all five products keep to it.
#pragma once

#include "bend.h"
#include "tile.h"

namespace openwork::OPENWORK_ISA {
namespace {

// What all blocks of a call share.
struct Shapes {
    int64_t head_dim, v_head_dim, padded, v_padded;  // padded: whole vectors
    float scale;
    bool bends;
    bool wants_query, wants_key, wants_value;  // gradients
};

struct KeyBlock {
    const float *transposed, *rows, *values_transposed;
};

struct QueryBlock {
    const float *rows, *grads, *lse2, *delta;
};

inline KeyBlock key_block(const Shapes& shapes, const float* packed) {
    const float* rows = packed + shapes.head_dim * kBlock;
    return {packed, rows, rows + shapes.padded * kBlock};
}

inline QueryBlock query_block(const Shapes& shapes, const float* packed) {
    const float *grads = packed + shapes.padded * kBlock, *lse2 = grads + shapes.v_padded * kBlock;
    return {packed, grads, lse2, lse2 + kBlock};
}

// Scratch memory of a unit, and what it works on.
struct Work {
    float *probs, *grad_scores;       // [64][64]: P (with dropout), dS
    float *key_sums, *value_sums;     // [64][padded]: dK, dV of the key block
    float *factors, *slope_of_cap;    // [64] of one row: dropout, the cap's derivative
    float* query_sums;                // [6][padded]: dQ where rows end within a vector
    Bend bend;
    bool simple;  // nothing bends scores or drops pairs
    const int32_t *q_order, *kv_order;
    double* slope_sum;
    // of each group of six rows: which vectors of keys it sees
    int first[kBlock / kTileRows + 1], stop[kBlock / kTileRows + 1];
};

template <int rows, int vectors, bool masked>
OPENWORK_INLINE void simple_tile(const Shapes& shapes, const Work& work, const QueryBlock& q, const KeyBlock& k, int row,
                                 int first, const uint64_t* bits) {
    const int at = row * kBlock + first * kLanes;
    Vector probs[rows][vectors];
    clear(probs);
    multiply_add(probs, q.rows + row * shapes.padded, shapes.padded, 1, k.transposed + first * kLanes, kBlock,
                 shapes.head_dim);
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) {
        const Vector lse2 = splat(q.lse2[row + r]);
#pragma GCC unroll 8
        for (int v = 0; v < vectors; ++v) {
            Vector p = exp2_of(probs[r][v] - lse2);
            if constexpr (masked) p = where_set(bits[r] >> ((first + v) * kLanes), p, splat(0.0f));
            store(work.probs + at + r * kBlock + v * kLanes, p);
        }
    }
    Vector grads[rows][vectors];
    clear(grads);
    multiply_add(grads, q.grads + row * shapes.v_padded, shapes.v_padded, 1, k.values_transposed + first * kLanes, kBlock,
                 shapes.v_head_dim);
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) {
        const Vector delta = splat(q.delta[row + r]);
#pragma GCC unroll 8
        for (int v = 0; v < vectors; ++v) {
            const int to = at + r * kBlock + v * kLanes;
            Vector ds = load(work.probs + to) * (grads[r][v] - delta);
            // infinity times 0: a forbidden value may be too large
            if constexpr (masked) ds = where_set(bits[r] >> ((first + v) * kLanes), ds, splat(0.0f));
            store(work.grad_scores + to, ds);
        }
    }
}

// The plain product of one tile, into memory.
template <int rows>
void product_tile(float* to, const float* a, int64_t a_step, const float* b, int64_t depth) {
    for_vectors(0, kBlockVectors, [&]<int vectors>(int first) {
        Vector sums[rows][vectors];
        clear(sums);
        multiply_add(sums, a, a_step, 1, b + first * kLanes, kBlock, depth);
        for (int r = 0; r < rows; ++r)
            for (int v = 0; v < vectors; ++v) store(to + r * kBlock + (first + v) * kLanes, sums[r][v]);
    });
}

// The same with softcap, ALiBi or dropout, row by row.
template <int rows>
void bent_tile(const Shapes& shapes, const Work& work, const QueryBlock& q, const KeyBlock& k, int row,
               const uint64_t* bits) {
    float *probs = work.probs + row * kBlock, *grads = work.grad_scores + row * kBlock;
    product_tile<rows>(probs, q.rows + row * shapes.padded, shapes.padded, k.transposed, shapes.head_dim);
    product_tile<rows>(grads, q.grads + row * shapes.v_padded, shapes.v_padded, k.values_transposed, shapes.v_head_dim);
    const Bend& bend = work.bend;
    for (int r = 0; r < rows; ++r, probs += kBlock, grads += kBlock) {
        const int32_t query = work.q_order[row + r];
        if (bend.scores()) bend_row(probs, bend, query, work.kv_order, work.slope_of_cap);
        if (bend.dropout) keep_row(work.factors, bend, query, work.kv_order);
        const Vector lse = splat(q.lse2[row + r]), delta = splat(q.delta[row + r]), none = splat(0.0f);
        const Vector base = splat(shapes.bends ? kLog2e : 1.0f);
        const uint64_t allowed = query < 0 ? 0 : bits == nullptr ? ~uint64_t{0} : bits[r];
        for (int c = 0; c < kBlock; c += kLanes) {
            const Vector p = where_set(allowed >> c, exp2_of((load(probs + c) - lse) * base), none);
            Vector grad = load(grads + c), dropped = p;
            if (bend.dropout) {
                grad *= load(work.factors + c);
                dropped *= load(work.factors + c);
            }
            store(probs + c, dropped);
            store(grads + c, where_set(allowed >> c, p * (grad - delta), none));
        }
        if (bend.alibi && work.slope_sum != nullptr) {
            float apart[kBlock];
            distances(apart, bend, query, work.kv_order);
            double sum = 0.0;
            for (int c = 0; c < kBlock; ++c) sum -= static_cast<double>(grads[c]) * static_cast<double>(apart[c]);
            *work.slope_sum += sum;
        }
        if (bend.softcap != 0.0f)
            for (int c = 0; c < kBlock; ++c) grads[c] *= work.slope_of_cap[c];
    }
}

template <int rows, bool masked>
void probs_tile(const Shapes& shapes, Work& work, const QueryBlock& q, const KeyBlock& k, int row, const uint64_t* bits) {
    int first = 0, stop = kBlockVectors;
    if constexpr (masked) {
        uint64_t any = 0;
        for (int r = 0; r < rows; ++r) any |= bits[r];
        first = any == 0 ? 0 : __builtin_ctzll(any) / kLanes;
        stop = any == 0 ? 0 : (63 - __builtin_clzll(any)) / kLanes + 1;
    }
    work.first[row / kTileRows] = first;
    work.stop[row / kTileRows] = stop;
    if (!work.simple) {
        bent_tile<rows>(shapes, work, q, k, row, masked ? bits : nullptr);
        return;
    }
    for_vectors(first, stop - first, [&]<int vectors>(int v) {
        simple_tile<rows, vectors, masked>(shapes, work, q, k, row, v, bits);
    });
    for (int r = row; masked && r < row + rows; ++r) {
        for (int v = 0; v < kBlockVectors; ++v) {
            if (v >= first && v < stop) continue;
            store(work.probs + r * kBlock + v * kLanes, splat(0.0f));
            store(work.grad_scores + r * kBlock + v * kLanes, splat(0.0f));
        }
    }
}

// Calls `tile.template operator()<rows>(row)` for groups of six rows that hold rows below `count`, and a last one of four.
template <typename Tile>
OPENWORK_INLINE void for_rows(int count, Tile&& tile) {
    int row = 0;
    for (; row < count && row + kTileRows <= kBlock; row += kTileRows) tile.template operator()<kTileRows>(row);
    if (row < count) tile.template operator()<kBlock % kTileRows>(row);
}

// Rows of queries that see any of the keys [key, key + kTileRows), as whole groups.
OPENWORK_INLINE void seeing_rows(const Work& work, int num_rows, int key, int& first, int& stop) {
    const int low = key / kLanes, high = (key + kTileRows - 1) / kLanes;
    first = kBlock;
    stop = 0;
    for (int row = 0; row < num_rows; row += kTileRows) {
        const int group = row / kTileRows;
        if (work.first[group] > high || work.stop[group] <= low) continue;
        if (first == kBlock) first = row;
        stop = row + kTileRows < num_rows ? row + kTileRows : num_rows;
    }
}

inline void add_rows(float* to, const float* from, int64_t columns, float factor) {
    for (int64_t c = 0; c < columns; ++c) to[c] += from[c] * factor;
}

// dQ where rows end within a vector: by way of scratch memory.
template <int rows>
void add_short_rows(const Shapes& shapes, const Work& work, float* const* to, const Factors& f) {
    zero(work.query_sums, rows * shapes.padded);
    add_product<rows>(work.query_sums, shapes.padded, shapes.padded, f);
    for (int r = 0; r < rows; ++r)
        if (to[r] != nullptr) add_rows(to[r], work.query_sums + r * shapes.padded, shapes.head_dim, shapes.scale);
}

// One block of one query head.
inline void backward_block(const Shapes& shapes, Work& work, const QueryBlock& q, const KeyBlock& k, const uint64_t* mask,
                    int num_rows, float* const* grad_rows) {
    for_rows(num_rows, [&]<int rows>(int row) {
        if (mask != nullptr)
            probs_tile<rows, true>(shapes, work, q, k, row, mask + row);
        else
            probs_tile<rows, false>(shapes, work, q, k, row, nullptr);
    });
    if (shapes.wants_query) {
        for_rows(num_rows, [&]<int rows>(int row) {
            const int first = work.first[row / kTileRows] * kLanes, stop = work.stop[row / kTileRows] * kLanes;
            if (first >= stop) return;
            const Factors f{work.grad_scores + row * kBlock + first, kBlock, 1, k.rows + first * shapes.padded,
                            shapes.padded, stop - first};
            if (shapes.head_dim == shapes.padded)
                add_product<rows>(grad_rows + row, shapes.head_dim, f, shapes.scale);
            else
                add_short_rows<rows>(shapes, work, grad_rows + row, f);
        });
    }
    for_rows(kBlock, [&]<int rows>(int key) {
        int first, stop;
        seeing_rows(work, num_rows, key, first, stop);
        if (first >= stop) return;
        if (shapes.wants_value) {
            const Factors f{work.probs + first * kBlock + key, 1, kBlock, q.grads + first * shapes.v_padded,
                            shapes.v_padded, stop - first};
            add_product<rows>(work.value_sums + key * shapes.v_padded, shapes.v_padded, shapes.v_padded, f);
        }
    });
    for_rows(kBlock, [&]<int rows>(int key) {
        int first, stop;
        seeing_rows(work, num_rows, key, first, stop);
        if (first >= stop) return;
        if (shapes.wants_key) {
            const Factors f{work.grad_scores + first * kBlock + key, 1, kBlock, q.rows + first * shapes.padded,
                            shapes.padded, stop - first};
            add_product<rows>(work.key_sums + key * shapes.padded, shapes.padded, shapes.padded, f);
        }
    });
}

inline Work make_work(const Shapes& shapes, Scratch& scratch) {
    Work work{};
    work.probs = scratch.floats(kBlock * kBlock);
    work.grad_scores = scratch.floats(kBlock * kBlock);
    work.key_sums = scratch.floats(kBlock * shapes.padded);
    work.value_sums = scratch.floats(kBlock * shapes.v_padded);
    work.query_sums = scratch.floats(kTileRows * shapes.padded);
    work.factors = scratch.floats(kBlock);
    work.slope_of_cap = scratch.floats(kBlock);
    return work;
}

}  // namespace
}  // namespace openwork::OPENWORK_ISA
