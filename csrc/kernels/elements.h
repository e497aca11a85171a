// Elements of tensors as float32, one at a time, whatever they are stored as.
#pragma once

#include <cstdint>
#include <cstring>

#include "../interface.h"

namespace openwork::OPENWORK_ISA {
namespace {

inline float from_bfloat16(uint16_t bits) {
    const uint32_t wide = uint32_t{bits} << 16;
    float x;
    std::memcpy(&x, &wide, sizeof x);
    return x;
}

// To nearest, ties to even; NaN stays NaN.
inline uint16_t to_bfloat16(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    if (x != x) return static_cast<uint16_t>((bits >> 16) | 0x40);
    return static_cast<uint16_t>((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}

inline float load(const Tensor& t, int64_t offset) {
    switch (t.dtype) {
        case Dtype::bfloat16: return from_bfloat16(static_cast<const uint16_t*>(t.data)[offset]);
        case Dtype::float16: return static_cast<float>(static_cast<const _Float16*>(t.data)[offset]);
        default: return static_cast<const float*>(t.data)[offset];
    }
}

inline void store(const Tensor& t, int64_t offset, float x) {
    switch (t.dtype) {
        case Dtype::bfloat16: static_cast<uint16_t*>(t.data)[offset] = to_bfloat16(x); break;
        case Dtype::float16: static_cast<_Float16*>(t.data)[offset] = static_cast<_Float16>(x); break;
        default: static_cast<float*>(t.data)[offset] = x;
    }
}

inline int64_t offset_of(const Tensor& t, int64_t a, int64_t b, int64_t c) {
    return a * t.stride[0] + b * t.stride[1] + c * t.stride[2];
}

inline void load_row(const Tensor& t, int64_t a, int64_t b, int64_t c, float* row) {
    const int64_t start = offset_of(t, a, b, c);
    for (int64_t i = 0; i < t.shape[3]; ++i) row[i] = load(t, start + i * t.stride[3]);
}

inline void store_row(const Tensor& t, int64_t a, int64_t b, int64_t c, const float* row) {
    const int64_t start = offset_of(t, a, b, c);
    for (int64_t i = 0; i < t.shape[3]; ++i) store(t, start + i * t.stride[3], row[i]);
}

}  // namespace
}  // namespace openwork::OPENWORK_ISA
