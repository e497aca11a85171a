// The register tile: every product of the passes is a sum over k of (broadcast element of A) x (row of B).
//
//     C[r][:] += sum over k of A[r][k] * B[k][:]
//
// Six rows of C times four vectors stay in registers while k runs. For each k that is 24 multiply-adds against 4
// loads and 6 broadcasts, so the two multiply-add ports are the limit and not the memory. A is read element by element:
// its transpose is only another pair of steps.
#pragma once

#include "simd.h"

namespace openwork::OPENWORK_ISA {
namespace {

template <int rows, int vectors>
OPENWORK_INLINE void multiply_add(Vector (&sums)[rows][vectors], const float* a, int64_t row_step, int64_t k_step,
                                  const float* b, int64_t b_step, int64_t depth) {
#pragma GCC unroll 2
    for (int64_t k = 0; k < depth; ++k) {
        Vector right[vectors];
#pragma GCC unroll 8
        for (int v = 0; v < vectors; ++v) right[v] = load(b + v * kLanes);
#pragma GCC unroll 8
        for (int r = 0; r < rows; ++r) {
            const Vector left = splat(a[r * row_step]);
#pragma GCC unroll 8
            for (int v = 0; v < vectors; ++v) sums[r][v] += left * right[v];
        }
        a += k_step;
        b += b_step;
    }
}

template <int rows, int vectors>
OPENWORK_INLINE void clear(Vector (&sums)[rows][vectors]) {
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r)
#pragma GCC unroll 8
        for (int v = 0; v < vectors; ++v) sums[r][v] = splat(0.0f);
}

// The left factor and the depth of a product, and the right factor.
struct Factors {
    const float* a;
    int64_t row_step, k_step;
    const float* b;
    int64_t b_step, depth;
};

// One tile of C += factor * A B; row r of C is at c[r] (nullptr: not wanted).
template <int rows, int vectors>
__attribute__((noinline)) void add_tile(float* const* c, int64_t column, const Factors& f, float factor) {
    Vector sums[rows][vectors];
    clear(sums);
    multiply_add(sums, f.a, f.row_step, f.k_step, f.b + column, f.b_step, f.depth);
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) {
        if (c[r] == nullptr) continue;
#pragma GCC unroll 8
        for (int v = 0; v < vectors; ++v) {
            float* to = c[r] + column + v * kLanes;
            store(to, load(to) + sums[r][v] * splat(factor));
        }
    }
}

// C += A B, where row r of C is c + r * c_step; `vectors` whole vectors of every row.
template <int rows, int vectors>
__attribute__((noinline)) void add_tile(float* c, int64_t c_step, int64_t column, const Factors& f) {
    Vector sums[rows][vectors];
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r)
#pragma GCC unroll 8
        for (int v = 0; v < vectors; ++v) sums[r][v] = load(c + r * c_step + column + v * kLanes);
    multiply_add(sums, f.a, f.row_step, f.k_step, f.b + column, f.b_step, f.depth);
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r)
#pragma GCC unroll 8
        for (int v = 0; v < vectors; ++v) store(c + r * c_step + column + v * kLanes, sums[r][v]);
}

// Calls `tile.template operator()<vectors>(first)` until `count` vectors from `first` are covered.
template <typename Tile>
OPENWORK_INLINE void for_vectors(int first, int count, Tile&& tile) {
    for (; count >= kTileVectors; first += kTileVectors, count -= kTileVectors)
        tile.template operator()<kTileVectors>(first);
    if constexpr (kTileVectors > 2) {
        if (count == 3) return tile.template operator()<3>(first);
        if (count == 2) return tile.template operator()<2>(first);
    }
    if (count == 1) tile.template operator()<1>(first);
}

// C += A B over all columns (`columns` is a multiple of the lanes).
template <int rows>
OPENWORK_INLINE void add_product(float* c, int64_t c_step, int64_t columns, const Factors& f) {
    for_vectors(0, static_cast<int>(columns / kLanes),
                [&]<int vectors>(int first) { add_tile<rows, vectors>(c, c_step, first * kLanes, f); });
}

template <int rows>
OPENWORK_INLINE void add_product(float* const* c, int64_t columns, const Factors& f, float factor) {
    for_vectors(0, static_cast<int>(columns / kLanes),
                [&]<int vectors>(int first) { add_tile<rows, vectors>(c, first * kLanes, f, factor); });
}

}  // namespace
}  // namespace openwork::OPENWORK_ISA
