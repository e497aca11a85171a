// What crosses between Python, the thread pool and the passes: plain data, no torch headers, no Python.
//
// A pass is compiled once for each instruction set, as `openwork::<isa>::forward` and so on. It may not use inline
// functions of the standard library: the linker keeps one copy of each for the whole binary, and a copy that was
// compiled for AVX-512 would then run on machines without it.
#pragma once

#include <cstdint>

// in headers that passes include: no copy of its own that the linker could share between instruction sets
#define OPENWORK_INLINE __attribute__((always_inline)) inline

namespace openwork {

enum class Dtype : int32_t { float32 = 0, bfloat16 = 1, float16 = 2 };

// [shape[0], ..., shape[3]], sizes that a tensor lacks are 1 (at the end). Strides count elements and may be 0.
// `data == nullptr`: the tensor was not given, or its gradient is not wanted.
struct Tensor {
    void* data;
    int64_t shape[4];
    int64_t stride[4];
    Dtype dtype;
};

// See openwork.layout.data.Part for the meaning; all arrays are views of the layout's words (layout.h). What lowering
// adds: blocks are 64x64, so a mask is 64 words of 64 bits; and an order holds -1 also for a query that sees no key in
// this part and for a key that no query sees in it, whose memory is not read.
struct Part {
    int64_t q_block, kv_block, q_blocks, kv_blocks, num_masks, mask_row_bytes;
    bool q_natural, kv_natural;
    const int32_t *q_order, *kv_order;
    const int32_t *full_offsets, *full_runs;                          // [q_blocks + 1], [n][2] ranges of key blocks
    const int32_t *partial_offsets, *partial_kv_block, *partial_mask;  // [q_blocks + 1], [m], [m]
    const uint8_t* masks;                                             // [num_masks][q_block][mask_row_bytes]
    // the same blocks by key block: [kv_blocks + 1], [n][2] ranges of query blocks; [kv_blocks + 1], [m], [m]
    const int32_t *kv_full_offsets, *kv_full_runs;
    const int32_t *kv_partial_offsets, *kv_partial_q_block, *kv_partial_mask;
};

struct Plane {
    const Part* parts;
    int64_t num_parts;
    const uint8_t* query_sees;  // [q_len], 0 for an empty row; nullptr: every query sees a key
    const uint8_t* key_seen;    // [kv_len], 0 for a key that nobody sees; nullptr: every key is seen
};

struct Layout {
    int64_t q_len, kv_len, q_start;
    int64_t num_planes, index_batch, index_heads;
    const Plane* planes;
    const int32_t* index;                        // [index_batch][index_heads]: the plane of a sequence and head
    int64_t q_position_rows, kv_position_rows;   // 0: positions are q_start + q_idx, and kv_idx
    const int64_t *q_positions, *kv_positions;   // [rows][q_len], [rows][kv_len]; rows is batch or 1

    OPENWORK_INLINE const Plane& plane(int64_t batch, int64_t head) const {
        const int64_t row = index_batch == 1 ? 0 : batch;
        return planes[index[row * index_heads + (index_heads == 1 ? 0 : head)]];
    }
};

struct Call {
    Tensor query, key, value;  // [batch, q_heads, q_len, head_dim], [batch, kv_heads, kv_len, head_dim or v_head_dim]
    const Layout* layout;
    float scale;
    float softcap;  // 0: none
    Tensor sink;    // float32 [q_heads], or absent
    Tensor slopes;  // float32 [batch or 1, q_heads], or absent
    bool dropout;
    uint64_t seed;
    uint64_t keep_from;  // a pair is kept where hash >= keep_from; at most 2^32
    float keep_scale;    // 1 / (1 - dropout_p)
};

// Every element of every output is written, whatever its memory held.
struct Forward {
    Call call;
    Tensor output;  // contiguous, dtype of the query
    Tensor lse;     // contiguous float32 [batch, q_heads, q_len]
    Tensor wide;    // the output in float32 before it is rounded, for half precision; absent where nobody wants it
};

struct Backward {
    Call call;
    Tensor grad_output, grad_lse;             // either may be absent
    Tensor output, lse;                       // float32, the output before it was rounded
    Tensor grad_query, grad_key, grad_value;  // contiguous, in the dtype of the inputs; absent: not wanted
    Tensor grad_sink, grad_slopes;            // float32 [batch, q_heads]; absent: not wanted
};

// One query for each sequence; head h of sequence b sees the keys of list list_of[b * q_heads + h] and no others.
struct Decode {
    Call call;  // q_len is 1; without layout and dropout
    int64_t num_lists;
    const int64_t* const* lists;  // distinct key indices
    const int64_t* lengths;
    const int32_t* list_of;
    const int64_t *q_positions, *kv_positions;  // [batch], [batch][kv_len]; nullptr: kv_len - 1, and kv_idx
    Tensor output;  // contiguous, dtype of the query
    Tensor lse;     // contiguous float32 [batch, q_heads, 1]
};

// Scratch memory of one unit of work: valid until the unit ends, aligned to 64 bytes, unwritten.
class Scratch {
public:
    virtual void* bytes(int64_t count) = 0;
    OPENWORK_INLINE float* floats(int64_t count) { return static_cast<float*>(bytes(count * int64_t{sizeof(float)})); }

protected:
    ~Scratch() = default;
};

// Runs units of work on the threads of a call. Which thread runs a unit is chance: what a unit computes may depend on
// its number alone. Denormals are zero in a unit.
class Runner {
public:
    using Unit = void (*)(void* context, int64_t unit, Scratch& scratch);
    // Returns when all units are done.
    virtual void run(int64_t units, Unit unit, void* context) = 0;
    // Memory of the whole pass, aligned to 64 bytes, unwritten.
    virtual void* alloc(int64_t bytes) = 0;
    // How many units may run at a time, to bound memory by; results may not depend on it.
    virtual int threads() const = 0;

protected:
    ~Runner() = default;
};

#define OPENWORK_DECLARE_PASSES(isa)                     \
    namespace isa {                                      \
    void forward(const Forward& args, Runner& runner);   \
    void backward(const Backward& args, Runner& runner); \
    void decode(const Decode& args, Runner& runner);     \
    }

OPENWORK_DECLARE_PASSES(plain)
OPENWORK_DECLARE_PASSES(avx2)
OPENWORK_DECLARE_PASSES(avx512)
OPENWORK_DECLARE_PASSES(neon)

#undef OPENWORK_DECLARE_PASSES

}  // namespace openwork
