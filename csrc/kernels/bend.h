// What bends scores or drops pairs: softcap, ALiBi and hash dropout, on the rows of a tile in memory; and the sink.
#pragma once

#include "rows.h"

namespace openwork::OPENWORK_ISA {
namespace {

// MurmurHash3's 32-bit finalizer, and one step of the stated hash (DESIGN.md, Meaning 9).
OPENWORK_INLINE uint32_t mix32(uint32_t h) {
    h = (h ^ h >> 16) * 0x85ebca6bu;
    h = (h ^ h >> 13) * 0xc2b2ae35u;
    return h ^ h >> 16;
}

OPENWORK_INLINE uint32_t absorb(uint32_t h, uint32_t value) { return mix32(h + (value + 1) * 0x9e3779b9u); }

// The options of a call for one sequence and query head.
struct Bend {
    float softcap;  // 0: none
    float slope;
    bool alibi, dropout;
    uint32_t hash;       // after (seed, batch, q_head)
    uint64_t keep_from;  // at most 2^32
    float keep_scale;
    const int64_t *q_positions, *kv_positions;  // nullptr: q_start + index, index
    int64_t q_start;

    bool scores() const { return softcap != 0.0f || alibi; }
    int64_t q_position(int32_t row) const { return q_positions ? q_positions[row] : q_start + row; }
    int64_t kv_position(int32_t row) const { return kv_positions ? kv_positions[row] : row; }
};

OPENWORK_INLINE bool bends_scores(const Call& call) { return call.softcap != 0.0f || call.slopes.data != nullptr; }

inline Bend bend_of(const Call& call, int64_t batch, int64_t head) {
    Bend bend{};
    bend.softcap = call.softcap;
    bend.alibi = call.slopes.data != nullptr;
    if (bend.alibi) {
        const int64_t row = call.slopes.shape[0] == 1 ? 0 : batch;
        bend.slope = static_cast<const float*>(call.slopes.data)[row * call.slopes.stride[0] + head * call.slopes.stride[1]];
    }
    bend.dropout = call.dropout;
    if (bend.dropout) {
        uint32_t h = absorb(absorb(0, static_cast<uint32_t>(call.seed)), static_cast<uint32_t>(call.seed >> 32));
        bend.hash = absorb(absorb(h, static_cast<uint32_t>(batch)), static_cast<uint32_t>(head));
    }
    bend.keep_from = call.keep_from;
    bend.keep_scale = call.keep_scale;
    if (call.layout == nullptr) return bend;
    const Layout& layout = *call.layout;
    bend.q_start = layout.q_start;
    if (layout.q_position_rows)
        bend.q_positions = layout.q_positions + (layout.q_position_rows == 1 ? 0 : batch) * layout.q_len;
    if (layout.kv_position_rows)
        bend.kv_positions = layout.kv_positions + (layout.kv_position_rows == 1 ? 0 : batch) * layout.kv_len;
    return bend;
}

// |q_pos - kv_pos| of one query and 64 keys (-1 pads count as key 0: they are masked).
inline void distances(float* to, const Bend& bend, int32_t query, const int32_t* keys) {
    const int64_t q_pos = bend.q_position(query < 0 ? 0 : query);
    for (int k = 0; k < kBlock; ++k) {
        const int64_t apart = q_pos - bend.kv_position(keys[k] < 0 ? 0 : keys[k]);
        to[k] = static_cast<float>(apart < 0 ? -apart : apart);
    }
}

// Bends the scores of a row, natural ones. `slope_of_cap`: the derivative of the cap, where wanted.
inline void bend_row(float* scores, const Bend& bend, int32_t query, const int32_t* keys, float* slope_of_cap) {
    if (bend.softcap != 0.0f) {
        const Vector inverse = splat(1.0f / bend.softcap), cap = splat(bend.softcap), one = splat(1.0f);
        for (int k = 0; k < kBlock; k += kLanes) {
            const Vector bent = tanh_of(load(scores + k) * inverse);
            store(scores + k, bent * cap);
            if (slope_of_cap != nullptr) store(slope_of_cap + k, one - bent * bent);
        }
    }
    if (bend.alibi) {
        float apart[kBlock];
        distances(apart, bend, query, keys);
        for (int k = 0; k < kBlock; ++k) scores[k] -= bend.slope * apart[k];
    }
}

// 1 / (1 - dropout_p) for a pair that is kept, 0 for one that is dropped.
inline void keep_row(float* factors, const Bend& bend, int32_t query, const int32_t* keys) {
    const uint32_t row = absorb(bend.hash, static_cast<uint32_t>(query));
    if (bend.keep_from > 0xffffffffu) return zero(factors, kBlock);
    const uint32_t from = static_cast<uint32_t>(bend.keep_from);
    for (int k = 0; k < kBlock; ++k)
        factors[k] = absorb(row, static_cast<uint32_t>(keys[k])) >= from ? bend.keep_scale : 0.0f;
}

// lse of a row from its maximum, and the sum of exponentials below it. `base`: as in attend.h.
OPENWORK_INLINE float log_of_sum(float top, float sum, float base) {
    constexpr double ln2 = 0.69314718055994530942;
    const double highest = static_cast<double>(top) * (base == 1.0f ? ln2 : 1.0);
    return static_cast<float>(highest + __builtin_log2(static_cast<double>(sum)) * ln2);
}

// What the sink leaves to the keys of a row. NaN becomes 1: a row whose lse overflowed is NaN where it sees, and a factor
// of NaN would carry that to keys it does not see.
OPENWORK_INLINE float kept_beside_sink(const Tensor& sink, int64_t head, float lse) {
    if (sink.data == nullptr || lse == -INFINITY) return 1.0f;
    const float kept = 1.0f / (1.0f + __builtin_expf(static_cast<const float*>(sink.data)[head * sink.stride[0]] - lse));
    return kept == kept ? kept : 1.0f;
}

}  // namespace
}  // namespace openwork::OPENWORK_ISA
