// Rows of tensors in and out of float32 memory: gathering, widening, rounding and transposing.
#pragma once

#include "../interface.h"
#include "simd.h"

namespace openwork::OPENWORK_ISA {
namespace {

OPENWORK_INLINE int64_t whole_vectors(int64_t columns) { return (columns + kLanes - 1) / kLanes * kLanes; }

OPENWORK_INLINE float float_of_bits(uint32_t bits) {
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
}

OPENWORK_INLINE uint32_t bits_of_float(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    return bits;
}

OPENWORK_INLINE float from_bfloat16(uint16_t half) { return float_of_bits(uint32_t{half} << 16); }

// to nearest, ties to even; NaN stays NaN
OPENWORK_INLINE uint16_t to_bfloat16(float x) {
    const uint32_t bits = bits_of_float(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
    return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

OPENWORK_INLINE float from_float16(uint16_t half) {
#if defined(__F16C__)
    return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(half)));
#else
    const uint32_t sign = uint32_t{half & 0x8000u} << 16, rest = half & 0x7fffu;
    if (rest >= 0x7c00u) return float_of_bits(sign | 0x7f800000u | (rest & 0x3ffu) << 13);
    if (rest >= 0x400u) return float_of_bits(sign | ((rest << 13) + 0x38000000u));
    const float tiny = static_cast<float>(rest) * 5.9604644775390625e-8f;  // 2^-24
    return sign ? -tiny : tiny;
#endif
}

OPENWORK_INLINE uint16_t to_float16(float x) {
#if defined(__F16C__)
    return static_cast<uint16_t>(_mm_cvtsi128_si32(_mm_cvtps_ph(_mm_set_ss(x), _MM_FROUND_TO_NEAREST_INT)));
#else
    const uint32_t bits = bits_of_float(x), sign = bits >> 16 & 0x8000u, rest = bits & 0x7fffffffu;
    if (rest > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);
    if (rest >= 0x47800000u) return static_cast<uint16_t>(sign | 0x7c00u);
    if (rest < 0x38800000u) {  // denormal: a whole number of 2^-24
        const uint32_t units = static_cast<uint32_t>(__builtin_nearbyintf(float_of_bits(rest) * 16777216.0f));
        return static_cast<uint16_t>(sign | units);
    }
    const uint32_t rounded = rest + 0xfffu + (rest >> 13 & 1u);
    return static_cast<uint16_t>(sign | ((rounded - 0x38000000u) >> 13));
#endif
}

OPENWORK_INLINE const char* row_at(const Tensor& x, int64_t batch, int64_t head, int64_t row) {
    const int64_t size = x.dtype == Dtype::float32 ? 4 : 2;
    return static_cast<const char*>(x.data) + (batch * x.stride[0] + head * x.stride[1] + row * x.stride[2]) * size;
}

OPENWORK_INLINE float* float_row(const Tensor& x, int64_t batch, int64_t head, int64_t row) {
    return reinterpret_cast<float*>(const_cast<char*>(row_at(x, batch, head, row)));
}

template <typename Read>
OPENWORK_INLINE void scaled_copy(float* to, int64_t columns, int64_t step, float factor, Read read) {
    if (step == 1)
        for (int64_t i = 0; i < columns; ++i) to[i] = read(i) * factor;
    else
        for (int64_t i = 0; i < columns; ++i) to[i] = read(i * step) * factor;
}

// to[0 .. columns) = factor * row, widened; to[columns .. padded) = 0.
inline void read_row(float* to, const Tensor& x, int64_t batch, int64_t head, int64_t row, int64_t padded,
                     float factor) {
    const int64_t columns = x.shape[3], step = x.stride[3];
    const char* from = row_at(x, batch, head, row);
    const float* singles = reinterpret_cast<const float*>(from);
    const uint16_t* halves = reinterpret_cast<const uint16_t*>(from);
    if (x.dtype == Dtype::float32 && step == 1 && columns == padded && columns % kLanes == 0) {
        const Vector f = splat(factor);
        for (int64_t i = 0; i < columns; i += kLanes) store(to + i, load(singles + i) * f);
        return;
    }
    if (x.dtype == Dtype::float32)
        scaled_copy(to, columns, step, factor, [&](int64_t i) { return singles[i]; });
    else if (x.dtype == Dtype::bfloat16)
        scaled_copy(to, columns, step, factor, [&](int64_t i) { return from_bfloat16(halves[i]); });
    else
        scaled_copy(to, columns, step, factor, [&](int64_t i) { return from_float16(halves[i]); });
    for (int64_t i = columns; i < padded; ++i) to[i] = 0.0f;
}

inline void zero(float* to, int64_t count) { std::memset(to, 0, static_cast<size_t>(count) * sizeof(float)); }

// The 64 rows `order[0 .. 64)` of one head, `padded` floats each; zeros for -1.
inline void gather_rows(float* to, const Tensor& x, int64_t batch, int64_t head, const int32_t* order, int64_t padded,
                        float factor) {
    for (int r = 0; r < kBlock; ++r, to += padded) {
        if (order[r] < 0)
            zero(to, padded);
        else
            read_row(to, x, batch, head, order[r], padded, factor);
    }
}

// Rounds `columns` floats into a contiguous row of the tensor's dtype.
inline void write_row(const Tensor& x, int64_t batch, int64_t head, int64_t row, const float* from, int64_t columns) {
    char* to = const_cast<char*>(row_at(x, batch, head, row));
    if (x.dtype == Dtype::float32) {
        std::memcpy(to, from, static_cast<size_t>(columns) * sizeof(float));
        return;
    }
    uint16_t* halves = reinterpret_cast<uint16_t*>(to);
    if (x.dtype == Dtype::bfloat16)
        for (int64_t i = 0; i < columns; ++i) halves[i] = to_bfloat16(from[i]);
    else
        for (int64_t i = 0; i < columns; ++i) halves[i] = to_float16(from[i]);
}

#if defined(__AVX512F__) || defined(__AVX2__)
// Column c of `kLanes` rows, for four columns: quarters of four rows side by side, then 4 x 4 in every quarter.
OPENWORK_INLINE void transpose_four_columns(float* to, int64_t to_step, const float* from, int64_t from_step) {
    constexpr int quarters = kLanes / 4;
    Vector row[4];
    for (int i = 0; i < 4; ++i) {
        const float* first = from + i * from_step;
#if defined(__AVX512F__)
        __m512 x = _mm512_castps128_ps512(_mm_loadu_ps(first));
        x = _mm512_insertf32x4(x, _mm_loadu_ps(first + 4 * from_step), 1);
        x = _mm512_insertf32x4(x, _mm_loadu_ps(first + 8 * from_step), 2);
        row[i] = _mm512_insertf32x4(x, _mm_loadu_ps(first + 12 * from_step), 3);
#else
        row[i] = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(first)), _mm_loadu_ps(first + 4 * from_step), 1);
#endif
    }
    static_assert(quarters == 4 || quarters == 2);
#if defined(__AVX512F__)
    const __m512 a = _mm512_unpacklo_ps(row[0], row[1]), b = _mm512_unpackhi_ps(row[0], row[1]);
    const __m512 c = _mm512_unpacklo_ps(row[2], row[3]), d = _mm512_unpackhi_ps(row[2], row[3]);
    store(to, _mm512_shuffle_ps(a, c, 0x44));
    store(to + to_step, _mm512_shuffle_ps(a, c, 0xee));
    store(to + 2 * to_step, _mm512_shuffle_ps(b, d, 0x44));
    store(to + 3 * to_step, _mm512_shuffle_ps(b, d, 0xee));
#else
    const __m256 a = _mm256_unpacklo_ps(row[0], row[1]), b = _mm256_unpackhi_ps(row[0], row[1]);
    const __m256 c = _mm256_unpacklo_ps(row[2], row[3]), d = _mm256_unpackhi_ps(row[2], row[3]);
    store(to, _mm256_shuffle_ps(a, c, 0x44));
    store(to + to_step, _mm256_shuffle_ps(a, c, 0xee));
    store(to + 2 * to_step, _mm256_shuffle_ps(b, d, 0x44));
    store(to + 3 * to_step, _mm256_shuffle_ps(b, d, 0xee));
#endif
}
#else
OPENWORK_INLINE void transpose_four_columns(float* to, int64_t to_step, const float* from, int64_t from_step) {
    for (int column = 0; column < 4; ++column)
        for (int r = 0; r < kLanes; ++r) to[column * to_step + r] = from[r * from_step + column];
}
#endif

// to[columns][64] from from[64][from_step].
inline void transpose_block(float* to, const float* from, int64_t from_step, int64_t columns) {
    for (int r = 0; r < kBlock; r += kLanes) {
        int64_t c = 0;
        for (; c + 4 <= columns; c += 4)
            transpose_four_columns(to + c * kBlock + r, kBlock, from + r * from_step + c, from_step);
        for (; c < columns; ++c)
            for (int i = 0; i < kLanes; ++i) to[c * kBlock + r + i] = from[(r + i) * from_step + c];
    }
}

}  // namespace
}  // namespace openwork::OPENWORK_ISA
