// One vector type for every instruction set, and the few functions that the passes need on it.
//
// GCC and Clang vectors carry +, -, *, comparisons and `mask ? a : b`; a product followed by a sum contracts to a fused
// multiply-add. Only what they do not reach is written with intrinsics. Everything here is private to one translation
// unit: a copy that was compiled for another instruction set must never be linked in its place.
#pragma once

#include "../interface.h"

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__AVX2__) || defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace openwork::OPENWORK_ISA {
namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16, kTileVectors = 4;
#elif defined(__AVX2__)
constexpr int kLanes = 8, kTileVectors = 2;
#elif defined(__ARM_NEON)
constexpr int kLanes = 4, kTileVectors = 4;
#else
constexpr int kLanes = 4, kTileVectors = 2;
#endif
// A register tile has kTileRows x kTileVectors sums: 24 of 32 registers (12 of 16), the rest holds one row of the right
// factor and one broadcast element of the left.
constexpr int kTileRows = 6;
constexpr int kBlock = 64;                      // queries and keys of a block
constexpr int kBlockVectors = kBlock / kLanes;  // vectors in a row of a block

constexpr float kLog2e = 1.44269504088896340736f, kLn2 = 0.69314718055994530942f;
constexpr float kLowest = -3.402823466e+38f;

typedef float Vector __attribute__((vector_size(kLanes * 4)));
typedef int32_t Ints __attribute__((vector_size(kLanes * 4)));
typedef float Unaligned __attribute__((vector_size(kLanes * 4), aligned(4), may_alias));

OPENWORK_INLINE Vector load(const float* from) { return *reinterpret_cast<const Unaligned*>(from); }
OPENWORK_INLINE void store(float* to, Vector x) { *reinterpret_cast<Unaligned*>(to) = x; }

OPENWORK_INLINE Vector splat(float x) {
#if defined(__AVX512F__)
    return _mm512_set1_ps(x);
#elif defined(__AVX2__)
    return _mm256_set1_ps(x);
#else
    return Vector{x, x, x, x};
#endif
}

OPENWORK_INLINE Vector larger(Vector a, Vector b) {
#if defined(__AVX512F__)
    return _mm512_max_ps(a, b);
#elif defined(__AVX2__)
    return _mm256_max_ps(a, b);
#else
    return a > b ? a : b;
#endif
}

OPENWORK_INLINE float sum_of(Vector x) {
    // in halves, always in this order
    float lane[kLanes];
    store(lane, x);
    for (int width = kLanes / 2; width > 0; width /= 2)
        for (int i = 0; i < width; ++i) lane[i] += lane[i + width];
    return lane[0];
}

OPENWORK_INLINE float largest_of(Vector x) {
#if defined(__AVX512F__)
    return _mm512_reduce_max_ps(x);
#else
    float lane[kLanes];
    store(lane, x);
    for (int i = 1; i < kLanes; ++i) lane[0] = lane[i] > lane[0] ? lane[i] : lane[0];
    return lane[0];
#endif
}

OPENWORK_INLINE bool any_above(Vector a, Vector b) {
#if defined(__AVX512F__)
    return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ) != 0;
#elif defined(__AVX2__)
    return _mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_GT_OQ)) != 0;
#else
    const Ints above = a > b;
    return (above[0] | above[1] | above[2] | above[3]) != 0;
#endif
}

// x where the bit of its lane is set, `otherwise` elsewhere.
OPENWORK_INLINE Vector where_set(uint64_t bits, Vector x, Vector otherwise) {
#if defined(__AVX512F__)
    return _mm512_mask_blend_ps(static_cast<__mmask16>(bits), otherwise, x);
#else
    Ints lane;
    for (int i = 0; i < kLanes; ++i) lane[i] = 1 << i;
    const Ints mine = lane & static_cast<int32_t>(bits);
    return mine != 0 ? x : otherwise;
#endif
}

// 2^x to about one unit in the last place; 0 for x = -inf and wherever the result would be denormal.
//
// x is split into a whole number and a rest; a polynomial of degree six (relative error 2e-9, exactly 1 at 0) takes
// the rest, and the whole number goes into the exponent.
OPENWORK_INLINE Vector exp2_of(Vector x) {
#if defined(__AVX512F__)
    // the rest is x - floor(x), 0 for infinities; scalef multiplies by 2^floor(x)
    const Vector rest = _mm512_reduce_ps(x, 0x09);
    Vector p = rest * splat(0.0002161304437322542f) + splat(0.0012467812048271298f);
    p = p * rest + splat(0.009675455279648304f);
    p = p * rest + splat(0.055485278367996216f);
    p = p * rest + splat(0.2402293086051941f);
    p = p * rest + splat(0.6931470632553101f);
    p = p * rest + splat(1.0f);
    return _mm512_scalef_ps(p, x);
#else
    const Vector low = splat(-126.0f), magic = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to whole numbers
    const Vector kept = larger(x, low);
    const Vector shifted = kept + magic;
    const Vector rest = kept - (shifted - magic);
    Vector p = rest * splat(0.0001535337360110134f) + splat(0.0013398878509178758f);
    p = p * rest + splat(0.00961843691766262f);
    p = p * rest + splat(0.055503323674201965f);
    p = p * rest + splat(0.24022647738456726f);
    p = p * rest + splat(0.6931471824645996f);
    p = p * rest + splat(1.0f);
    const Vector scaled = (Vector)((Ints)p + ((Ints)shifted << 23));
    return x < low ? splat(0.0f) : scaled;
#endif
}

// tanh as in Cephes: a polynomial near 0, where the quotient would lose digits, and the quotient elsewhere.
OPENWORK_INLINE Vector tanh_of(Vector x) {
    const Vector size = larger(x, -x);
    const Vector square = x * x;
    Vector p = square * splat(-5.70498872745e-3f) + splat(2.06390887954e-2f);
    p = p * square + splat(-5.37397155531e-2f);
    p = p * square + splat(1.33314422036e-1f);
    p = p * square + splat(-3.33332819422e-1f);
    p = p * square * x + x;
    const Vector bounded = size > splat(40.0f) ? splat(40.0f) : size;
    const Vector far = splat(1.0f) - splat(2.0f) / (exp2_of(bounded * splat(2.0f * kLog2e)) + splat(1.0f));
    return size < splat(0.625f) ? p : x < splat(0.0f) ? -far : far;
}

}  // namespace
}  // namespace openwork::OPENWORK_ISA
