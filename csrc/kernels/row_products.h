// Products of a few vectors with rows that lie anywhere in memory: what decoding does instead of tiles.
#pragma once

#include "rows.h"

namespace openwork::OPENWORK_ISA {
namespace {

// Rows that a later phase reads. They are asked for while another one computes, and into the first cache: that was 3 to
// 9 % faster than the second, from which a line needs one of a core's few fill buffers again.
struct Ahead {
    const char* base;
    int64_t step, bytes;  // from row to row, and of a row
    const int64_t* keys;
    int64_t count;

    // To be called from a function that does more: GCC takes one that only fetches for one without effect.
    OPENWORK_INLINE void fetch(int64_t k) const {
        if (k >= count) return;
        const char* row = base + keys[k] * step;
        for (int64_t byte = 0; byte < bytes; byte += 64) __builtin_prefetch(row + byte, 0, 3);
    }
};

// Where the rows of up to 64 keys of one head are: in the tensor itself, or widened in `scratch`.
struct Rows {
    const Tensor* x;
    int64_t batch, head, padded;
    float* scratch;  // [64][padded]; nullptr where rows can be read in place
    int64_t count;
    const float* at[kBlock];

    // The rows keys[0 .. rows).
    void find(const int64_t* keys, int64_t rows) {
        count = rows;
        if (scratch == nullptr) {
            const float* base = float_row(*x, batch, head, 0);
            const int64_t step = x->stride[2];
            for (int64_t k = 0; k < rows; ++k) at[k] = base + keys[k] * step;
            return;
        }
        for (int64_t k = 0; k < rows; ++k) {
            float* row = scratch + k * padded;
            at[k] = row;
            read_row(row, *x, batch, head, keys[k], padded, 1.0f);
        }
    }

    Ahead ahead(const int64_t* keys, int64_t rows) const {
        const int64_t size = x->dtype == Dtype::float32 ? 4 : 2;
        return {row_at(*x, batch, head, 0), x->stride[2] * size, x->shape[3] * size, keys, rows};
    }
};

inline Rows rows_of(const Tensor& x, int64_t batch, int64_t head, int64_t padded, Scratch& scratch) {
    Rows rows{};
    rows.x = &x;
    rows.batch = batch;
    rows.head = head;
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

// The sums of neighbouring lanes, of a and then of b.
OPENWORK_INLINE Vector pair_sums(Vector a, Vector b) {
#if !defined(__has_builtin) || !__has_builtin(__builtin_shufflevector)
    Vector sums;
    for (int i = 0; i < kLanes / 2; ++i) {
        sums[i] = a[2 * i] + a[2 * i + 1];
        sums[kLanes / 2 + i] = b[2 * i] + b[2 * i + 1];
    }
    return sums;
#elif defined(__AVX512F__)
    return __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30) +
           __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
#elif defined(__AVX2__)
    return __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14) +
           __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15);
#else
    return __builtin_shufflevector(a, b, 0, 2, 4, 6) + __builtin_shufflevector(a, b, 1, 3, 5, 7);
#endif
}

// Lane i of the result is the sum of the lanes of part[i]; what is in `part` is lost.
OPENWORK_INLINE Vector sums_of(Vector (&part)[kLanes]) {
#pragma GCC unroll 4
    for (int left = kLanes / 2; left > 0; left /= 2)
#pragma GCC unroll 8
        for (int i = 0; i < left; ++i) part[i] = pair_sums(part[2 * i], part[2 * i + 1]);
    return part[0];
}

// scores[h][k] = query[h] . row k; scores have 64 to a head, and hold anything beyond the rows. Meanwhile
// `ahead` is fetched, no more rows than there are here. As many products as a vector has lanes are summed at a time, in
// registers.
template <int heads>
OPENWORK_INLINE void dot_rows(float* scores, const float* query, const Rows& rows, const Ahead& ahead) {
    constexpr int keys = kLanes / heads;
    const int64_t padded = rows.padded;
    for (int64_t first = 0; first < rows.count; first += keys) {
        const float* row[keys];
        for (int k = 0; k < keys; ++k) {
            row[k] = rows.at[first + k < rows.count ? first + k : rows.count - 1];
            ahead.fetch(first + k);
        }
        Vector part[kLanes] = {};
        for (int64_t c = 0; c < padded; c += kLanes) {
#pragma GCC unroll 16
            for (int k = 0; k < keys; ++k) {
                const Vector x = load(row[k] + c);
#pragma GCC unroll 4
                for (int h = 0; h < heads; ++h) part[h * keys + k] += load(query + h * padded + c) * x;
            }
        }
        float sums[kLanes];
        store(sums, sums_of(part));
        for (int h = 0; h < heads; ++h) std::memcpy(scores + h * kBlock + first, sums + h * keys, keys * sizeof(float));
    }
}

template <int heads, int vectors>
OPENWORK_INLINE void add_columns(float* output, int64_t column, const float* weights, const Rows& rows,
                                 const Ahead& ahead) {
    const int64_t padded = rows.padded;
    Vector sums[heads][vectors];
#pragma GCC unroll 4
    for (int h = 0; h < heads; ++h)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; ++v) sums[h][v] = load(output + h * padded + column + v * kLanes);
    for (int64_t k = 0; k < rows.count; ++k) {
        ahead.fetch(k);
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

// output[h] += sum over k of weights[h][k] * row k; weights have 64 to a head. Meanwhile `ahead` is fetched.
template <int heads>
OPENWORK_INLINE void add_rows(float* output, const float* weights, const Rows& rows, const Ahead& ahead) {
    // four heads and kTileVectors vectors of each are sums in registers
    Ahead later = ahead;
    int64_t column = 0;
    for (; column + kTileVectors * kLanes <= rows.padded; column += kTileVectors * kLanes)
        add_columns<heads, kTileVectors>(output, column, weights, rows, later), later.count = 0;
    for (; column < rows.padded; column += kLanes)
        add_columns<heads, 1>(output, column, weights, rows, later), later.count = 0;
}

}  // namespace
}  // namespace openwork::OPENWORK_ISA
