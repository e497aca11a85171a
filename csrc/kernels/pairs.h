// The pairs of a plane one by one, and the score of a pair: the meaning in its plainest form.
#pragma once

#include <cmath>
#include <cstdint>

#include "elements.h"

namespace openwork::OPENWORK_ISA {
namespace {

inline uint32_t mix32(uint32_t h) {
    h = (h ^ (h >> 16)) * 0x85EBCA6Bu;
    h = (h ^ (h >> 13)) * 0xC2B2AE35u;
    return h ^ (h >> 16);
}

inline uint32_t absorb(uint32_t h, uint32_t v) { return mix32(h + (v + 1u) * 0x9E3779B9u); }

// One query head: what turns `q.k` into a score and a probability.
struct Head {
    const Call& call;
    int64_t batch, head;
    float slope;

    Head(const Call& c, int64_t b, int64_t h) : call(c), batch(b), head(h), slope(0.0f) {
        if (c.slopes.data != nullptr) {
            const int64_t row = c.slopes.shape[0] == 1 ? 0 : b;
            slope = static_cast<const float*>(c.slopes.data)[row * c.slopes.stride[0] + h * c.slopes.stride[1]];
        }
    }

    float sink() const { return static_cast<const float*>(call.sink.data)[head * call.sink.stride[0]]; }

    float distance(int64_t q_idx, int64_t kv_idx) const {
        const Layout& l = *call.layout;
        const int64_t q_row = l.q_position_rows > 1 ? batch : 0, kv_row = l.kv_position_rows > 1 ? batch : 0;
        const int64_t q = l.q_position_rows == 0 ? l.q_start + q_idx : l.q_positions[q_row * l.q_len + q_idx];
        const int64_t k = l.kv_position_rows == 0 ? kv_idx : l.kv_positions[kv_row * l.kv_len + kv_idx];
        return static_cast<float>(q < k ? k - q : q - k);
    }

    float capped(float x) const { return call.softcap > 0.0f ? call.softcap * std::tanh(x / call.softcap) : x; }

    float score(float dot, int64_t q_idx, int64_t kv_idx) const {
        const float s = capped(call.scale * dot);
        return slope == 0.0f ? s : s - slope * distance(q_idx, kv_idx);
    }

    // 0 where the pair is dropped, else 1 / (1 - dropout_p)
    float kept(int64_t q_idx, int64_t kv_idx) const {
        if (!call.dropout) return 1.0f;
        uint32_t h = absorb(absorb(0, static_cast<uint32_t>(call.seed)), static_cast<uint32_t>(call.seed >> 32));
        h = absorb(absorb(h, static_cast<uint32_t>(batch)), static_cast<uint32_t>(head));
        h = absorb(absorb(h, static_cast<uint32_t>(q_idx)), static_cast<uint32_t>(kv_idx));
        return h >= call.keep_from ? call.keep_scale : 0.0f;
    }
};

// `block(part, row, q_idx, first, allowed)` for each query of each block that runs: `first` is the block's place in
// kv_order, `allowed(k)` whether its key `k` may be seen.
template <typename Block>
void each_row(const Plane& plane, Block block) {
    for (int64_t p = 0; p < plane.num_parts; ++p) {
        const Part& part = plane.parts[p];
        for (int64_t i = 0; i < part.q_blocks; ++i) {
            auto rows = [&](int64_t j, const uint8_t* mask) {
                for (int64_t r = 0; r < part.q_block; ++r) {
                    const int64_t q_idx = part.q_order[i * part.q_block + r];
                    if (q_idx < 0) continue;
                    const uint8_t* bits = mask == nullptr ? nullptr : mask + r * part.mask_row_bytes;
                    block(part, q_idx, part.kv_order + j * part.kv_block,
                          [bits](int64_t k) { return bits == nullptr || (bits[k / 8] >> (k % 8) & 1) != 0; });
                }
            };
            for (int64_t n = part.full_offsets[i]; n < part.full_offsets[i + 1]; ++n)
                for (int64_t j = part.full_runs[2 * n]; j < part.full_runs[2 * n + 1]; ++j) rows(j, nullptr);
            for (int64_t n = part.partial_offsets[i]; n < part.partial_offsets[i + 1]; ++n)
                rows(part.partial_kv_block[n],
                     part.masks + int64_t{part.partial_mask[n]} * part.q_block * part.mask_row_bytes);
        }
    }
}

inline float dot(const float* a, const float* b, int64_t count) {
    float sum = 0.0f;
    for (int64_t i = 0; i < count; ++i) sum += a[i] * b[i];
    return sum;
}

}  // namespace
}  // namespace openwork::OPENWORK_ISA
