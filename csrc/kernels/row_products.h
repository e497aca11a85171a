// Products of a few vectors with rows that lie anywhere in memory: what decoding does instead of tiles.
#pragma once

#include "rows.h"

namespace openwork::OPENWORK_ISA {
namespace {

// Where the rows of up to 64 keys of one head are: in the tensor itself, or widened in `scratch`.
struct Rows {
    const Tensor* x;
    int64_t padded;
    float* scratch;  // [64][padded]; nullptr where rows can be read in place
    int64_t count, num_next;
    const float* at[kBlock];
    const char* next[kBlock];  // of the next block, to be fetched ahead

    // The rows keys[0 .. rows), which `following` more will follow.
    void find(int64_t batch, int64_t head, const int64_t* keys, int64_t rows, int64_t following) {
        count = rows;
        num_next = following;
        for (int64_t k = 0; k < rows; ++k) {
            at[k] = float_row(*x, batch, head, keys[k]);
            if (scratch == nullptr) continue;
            at[k] = scratch + k * padded;
            read_row(scratch + k * padded, *x, batch, head, keys[k], padded, 1.0f);
        }
        for (int64_t k = 0; k < following; ++k) next[k] = row_at(*x, batch, head, keys[rows + k]);
    }

    // To be called from a function that does more: GCC takes one that only fetches for one without effect.
    OPENWORK_INLINE void fetch(int64_t k) const {
        if (k >= num_next) return;
        const int64_t bytes = x->shape[3] * (x->dtype == Dtype::float32 ? 4 : 2);
        for (int64_t byte = 0; byte < bytes; byte += 64) __builtin_prefetch(next[k] + byte, 0, 2);
    }
};

inline Rows rows_of(const Tensor& x, int64_t padded, Scratch& scratch) {
    Rows rows{};
    rows.x = &x;
    rows.padded = padded;
    const bool in_place = x.dtype == Dtype::float32 && x.stride[3] == 1 && x.shape[3] == padded;
    rows.scratch = in_place ? nullptr : scratch.floats(kBlock * padded);
    return rows;
}

// Calls `work.template operator()<n>(first)` until `count` items are covered, four at a time, then two, then one.
template <typename Work>
OPENWORK_INLINE void for_few(int64_t count, Work&& work) {
    int64_t first = 0;
    for (; count - first >= 4; first += 4) work.template operator()<4>(first);
    if (count - first >= 2) work.template operator()<2>(first), first += 2;
    if (count > first) work.template operator()<1>(first);
}

// Lane i of the result is the sum of the lanes of part[i].
OPENWORK_INLINE Vector sums_of(const Vector* part) {
    alignas(64) float turned[kLanes * kLanes];
    const float* from = reinterpret_cast<const float*>(part);
    for (int c = 0; c < kLanes; c += 4) transpose_four_columns(turned + c * kLanes, kLanes, from + c, kLanes);
    Vector sums[4];
    for (int i = 0; i < 4; ++i) sums[i] = load(turned + i * kLanes);
    for (int i = 4; i < kLanes; ++i) sums[i % 4] += load(turned + i * kLanes);
    return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

// scores[h][k] = query[h] . row k; scores have 64 to a head. `ahead`: the next rows are fetched meanwhile.
template <int heads>
OPENWORK_INLINE void dot_rows(float* scores, const float* query, const Rows& rows, bool ahead) {
    const int64_t padded = rows.padded;
    for (int64_t first = 0; first < rows.count; first += kLanes) {
        Vector part[heads][kLanes];
        const int64_t here = rows.count - first < kLanes ? rows.count - first : kLanes;
        for (int64_t k = 0; k < here; ++k) {
            if (ahead) rows.fetch(first + k);
            const float* row = rows.at[first + k];
            Vector sums[heads] = {};
            for (int64_t c = 0; c < padded; c += kLanes) {
                const Vector x = load(row + c);
#pragma GCC unroll 4
                for (int h = 0; h < heads; ++h) sums[h] += load(query + h * padded + c) * x;
            }
#pragma GCC unroll 4
            for (int h = 0; h < heads; ++h) part[h][k] = sums[h];
        }
        for (int h = 0; h < heads; ++h) {
            for (int64_t k = here; k < kLanes; ++k) part[h][k] = splat(0.0f);
            store(scores + h * kBlock + first, sums_of(part[h]));
        }
    }
}

template <int heads, int vectors>
OPENWORK_INLINE void add_columns(float* output, int64_t column, const float* weights, const Rows& rows, bool ahead) {
    const int64_t padded = rows.padded;
    Vector sums[heads][vectors];
#pragma GCC unroll 4
    for (int h = 0; h < heads; ++h)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; ++v) sums[h][v] = load(output + h * padded + column + v * kLanes);
    for (int64_t k = 0; k < rows.count; ++k) {
        if (ahead) rows.fetch(k);
        const float* row = rows.at[k] + column;
        Vector x[vectors];
#pragma GCC unroll 4
        for (int v = 0; v < vectors; ++v) x[v] = load(row + v * kLanes);
#pragma GCC unroll 4
        for (int h = 0; h < heads; ++h) {
            const Vector weight = splat(weights[h * kBlock + k]);
#pragma GCC unroll 4
            for (int v = 0; v < vectors; ++v) sums[h][v] += weight * x[v];
        }
    }
#pragma GCC unroll 4
    for (int h = 0; h < heads; ++h)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; ++v) store(output + h * padded + column + v * kLanes, sums[h][v]);
}

// output[h] += sum over k of weights[h][k] * row k; weights have 64 to a head.
template <int heads>
OPENWORK_INLINE void add_rows(float* output, const float* weights, const Rows& rows, bool ahead) {
    // four heads and kTileVectors vectors of each are sums in registers
    int64_t column = 0;
    for (; column + kTileVectors * kLanes <= rows.padded; column += kTileVectors * kLanes)
        add_columns<heads, kTileVectors>(output, column, weights, rows, ahead && column == 0);
    for (; column < rows.padded; column += kLanes)
        add_columns<heads, 1>(output, column, weights, rows, ahead && column == 0);
}

}  // namespace
}  // namespace openwork::OPENWORK_ISA
