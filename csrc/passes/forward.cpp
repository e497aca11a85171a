// The forward pass: packed keys once for each head and part, then one unit of work for each query block.
//
// For 64 queries and 64 keys at a time: scores (a register tile of six rows), the exponential, and the product with
// the values, six rows after six rows, so that the packed keys and values (32 KB at head_dim 64) stay in the first-level
// cache. The sum of a row is kept lane by lane and the maximum only as good as needed: it is raised when a score passes
// it by 8 (in base 2), for that row alone, because a row's rounding must not hang on keys that the row does not see.
// Queries are packed with scale * log2(e), so that probabilities are powers of two.
//
// A plane of several parts visits a query several times. Between parts the sums lie unnormalised in the output, with the
// maximum and the denominator of each row beside: the parts are merged exactly, in their order, and normalised at the end.

#include "../kernels/bend.h"
#include "../kernels/tile.h"

namespace openwork::OPENWORK_ISA {
namespace {

constexpr float kSlack = 8.0f;
constexpr int kPackedBlocks = 4;  // key blocks that one unit packs

struct Pass {
    const Forward* args;
    int64_t head_dim, v_head_dim, v_padded;
    Jobs jobs;
    float *wide, *top, *sum;  // [batch, q_heads, q_len, ...]: state between parts
    int64_t block_floats;
    // of the wave and part at work
    int64_t first_job, part;
    Units units;
    float** packed;  // for each job of the wave

    int64_t row_number(const Job& job, int64_t head, int64_t row) const {
        const Tensor& query = args->call.query;
        return (job.batch * query.shape[1] + head) * query.shape[2] + row;
    }
};

void pack_unit(void* context, int64_t unit, Scratch& scratch) {
    const Pass& pass = *static_cast<Pass*>(context);
    const int64_t at = pass.units.locate(unit);
    const Job& job = pass.jobs.at[pass.first_job + at];
    const Part& part = job.plane->parts[pass.part];
    const Call& call = pass.args->call;
    const int64_t padded = whole_vectors(pass.head_dim);
    float* rows = scratch.floats(kBlock * padded);
    for (int64_t block = unit * kPackedBlocks; block < (unit + 1) * kPackedBlocks && block < part.kv_blocks; ++block) {
        float* to = pass.packed[at] + block * pass.block_floats;
        const int32_t* order = part.kv_order + block * kBlock;
        gather_rows(rows, call.key, job.batch, job.kv_head, order, padded, 1.0f);
        transpose_block(to, rows, padded, pass.head_dim);
        gather_rows(to + pass.head_dim * kBlock, call.value, job.batch, job.kv_head, order, pass.v_padded, 1.0f);
    }
}

// 64 queries at work.
struct Queries {
    float *query, *output, *top;
    Vector* sum;    // lane by lane
    float* scores;  // [6][64]
    float* factors;  // [64], dropout
    int64_t head_dim, v_padded;
    const int32_t* order;
    Bend bend;
};

template <int rows, int vectors, bool masked>
OPENWORK_INLINE void score_tile(const Queries& q, int row, int first, const float* keys, const uint64_t* bits,
                                Vector* top) {
    Vector sums[rows][vectors];
    clear(sums);
    multiply_add(sums, q.query + row * q.head_dim, q.head_dim, 1, keys + first * kLanes, kBlock, q.head_dim);
    const Vector forbidden = splat(-INFINITY);
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 8
        for (int v = 0; v < vectors; ++v) {
            if constexpr (masked) sums[r][v] = where_set(bits[r] >> ((first + v) * kLanes), sums[r][v], forbidden);
            store(q.scores + r * kBlock + (first + v) * kLanes, sums[r][v]);
            top[r] = larger(top[r], sums[r][v]);
        }
    }
}

template <int rows>
void bend_tile(const Queries& q, int row, const int32_t* keys, const uint64_t* bits, Vector* top) {
    const Vector forbidden = splat(-INFINITY);
    for (int r = 0; r < rows; ++r) {
        float* scores = q.scores + r * kBlock;
        bend_row(scores, q.bend, q.order[row + r], keys, nullptr);
        top[r] = splat(kLowest);
        for (int v = 0; v < kBlockVectors; ++v) {
            Vector x = load(scores + v * kLanes);
            if (bits != nullptr) x = where_set(bits[r] >> (v * kLanes), x, forbidden);
            store(scores + v * kLanes, x);
            top[r] = larger(top[r], x);
        }
    }
}

template <int rows>
__attribute__((noinline)) void raise_tops(const Queries& q, int row, const Vector* top) {
    for (int r = row; r < row + rows; ++r) {
        const float found = largest_of(top[r - row]);
        if (!(found > q.top[r] + kSlack)) continue;
        const Vector shrink = exp2_of(splat(q.top[r] - found));
        q.top[r] = found;
        q.sum[r] = q.sum[r] * shrink;
        float* output = q.output + r * q.v_padded;
        for (int64_t c = 0; c < q.v_padded; c += kLanes) store(output + c, load(output + c) * shrink);
    }
}

template <int rows, bool masked>
void attend_tile(const Queries& q, int row, const float* keys, const float* values, const int32_t* kv_order,
                 const uint64_t* bits) {
    int first = 0, stop = kBlockVectors;
    if constexpr (masked) {
        uint64_t any = 0;
        for (int r = 0; r < rows; ++r) any |= bits[r];
        if (any == 0) return;
        first = __builtin_ctzll(any) / kLanes;
        stop = (63 - __builtin_clzll(any)) / kLanes + 1;
    }
    Vector top[rows];
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) top[r] = splat(kLowest);
    if (!q.bend.scores()) {
        for_vectors(first, stop - first, [&]<int vectors>(int v) {
            score_tile<rows, vectors, masked>(q, row, v, keys, bits, top);
        });
    } else {
        for_vectors(0, kBlockVectors, [&]<int vectors>(int v) {
            score_tile<rows, vectors, false>(q, row, v, keys, bits, top);
        });
        bend_tile<rows>(q, row, kv_order, masked ? bits : nullptr, top);
    }
    Vector excess = top[0] - splat(q.top[row] + kSlack);
#pragma GCC unroll 8
    for (int r = 1; r < rows; ++r) excess = larger(excess, top[r] - splat(q.top[row + r] + kSlack));
    if (any_above(excess, splat(0.0f))) raise_tops<rows>(q, row, top);
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) {
        const Vector highest = splat(q.top[row + r]);
        Vector sum = q.sum[row + r];
        float* scores = q.scores + r * kBlock;
        for (int v = first; v < stop; ++v) {
            const Vector p = exp2_of(load(scores + v * kLanes) - highest);
            sum += p;
            store(scores + v * kLanes, p);
        }
        q.sum[row + r] = sum;
    }
    if (q.bend.dropout) {
        for (int r = 0; r < rows; ++r) {
            keep_row(q.factors, q.bend, q.order[row + r], kv_order);
            for (int k = 0; k < kBlock; ++k) q.scores[r * kBlock + k] *= q.factors[k];
        }
    }
    const Factors f{q.scores + first * kLanes, kBlock, 1, values + first * kLanes * q.v_padded, q.v_padded,
                    int64_t{stop - first} * kLanes};
    add_product<rows>(q.output + row * q.v_padded, q.v_padded, q.v_padded, f);
}

void attend_block(const Queries& q, int num_rows, const float* packed, const int32_t* kv_order, const uint64_t* mask) {
    const float* values = packed + q.head_dim * kBlock;
    int row = 0;
    for (; row < num_rows && row + kTileRows <= kBlock; row += kTileRows) {
        if (mask != nullptr)
            attend_tile<kTileRows, true>(q, row, packed, values, kv_order, mask + row);
        else
            attend_tile<kTileRows, false>(q, row, packed, values, kv_order, nullptr);
    }
    constexpr int rest = kBlock % kTileRows;
    if (row >= num_rows) return;
    if (mask != nullptr)
        attend_tile<rest, true>(q, row, packed, values, kv_order, mask + row);
    else
        attend_tile<rest, false>(q, row, packed, values, kv_order, nullptr);
}

// Output and lse of one row from its unnormalised sums.
void finish_row(const Pass& pass, const Job& job, int64_t head, int64_t row, float* sums, float top, float sum) {
    const Forward& args = *pass.args;
    const int64_t n = pass.row_number(job, head, row), columns = pass.v_head_dim;
    float lse = -INFINITY, factor = 0.0f;
    if (sum > 0.0f || sum != sum) {
        lse = static_cast<float>((static_cast<double>(top) + __builtin_log2(static_cast<double>(sum))) * 0.69314718055994530942);
        factor = 1.0f / sum;
        if (args.call.sink.data != nullptr) {
            const float sink = static_cast<const float*>(args.call.sink.data)[head * args.call.sink.stride[0]];
            factor *= 1.0f / (1.0f + __builtin_expf(sink - lse));
        }
        for (int64_t c = 0; c < columns; ++c) sums[c] *= factor;
    } else {
        zero(sums, columns);
    }
    static_cast<float*>(args.lse.data)[n] = lse;
    write_row(args.output, job.batch, head, row, sums, columns);
    if (args.wide.data != nullptr && args.wide.data != args.output.data)
        std::memcpy(static_cast<float*>(args.wide.data) + n * columns, sums, static_cast<size_t>(columns) * 4);
}

void start_queries(const Pass& pass, const Job& job, int64_t head, Queries& q, int num_rows) {
    const Call& call = pass.args->call;
    const float factor = q.bend.scores() ? call.scale : call.scale * kLog2e;
    for (int r = 0; r < kBlock; ++r) {
        float* query = q.query + r * q.head_dim;
        if (r < num_rows && q.order[r] >= 0)
            read_row(query, call.query, job.batch, head, q.order[r], q.head_dim, factor);
        else
            zero(query, q.head_dim);
        q.sum[r] = splat(0.0f);
        q.top[r] = kLowest;
    }
    zero(q.output, kBlock * q.v_padded);
    if (pass.part == 0) return;
    for (int r = 0; r < num_rows; ++r) {
        if (q.order[r] < 0) continue;
        const int64_t n = pass.row_number(job, head, q.order[r]);
        if (pass.top[n] == kLowest) continue;
        q.top[r] = pass.top[n];
        q.sum[r][0] = pass.sum[n];
        std::memcpy(q.output + r * q.v_padded, pass.wide + n * pass.v_head_dim,
                    static_cast<size_t>(pass.v_head_dim) * 4);
    }
}

void attend_unit(void* context, int64_t unit, Scratch& scratch) {
    const Pass& pass = *static_cast<Pass*>(context);
    const int64_t at = pass.units.locate(unit);
    const Job& job = pass.jobs.at[pass.first_job + at];
    const Part& part = job.plane->parts[pass.part];
    // later blocks first: in causal layouts they are the longest
    const int64_t block = part.q_blocks - 1 - unit % part.q_blocks, head = job.heads[unit / part.q_blocks];
    const int32_t* order = part.q_order + block * kBlock;
    int num_rows = kBlock;
    while (num_rows > 0 && order[num_rows - 1] < 0) --num_rows;
    if (num_rows == 0) return;
    Queries q;
    q.head_dim = pass.head_dim;
    q.v_padded = pass.v_padded;
    q.query = scratch.floats(kBlock * q.head_dim);
    q.output = scratch.floats(kBlock * q.v_padded);
    q.top = scratch.floats(kBlock);
    q.sum = reinterpret_cast<Vector*>(scratch.floats(kBlock * kLanes));
    q.scores = scratch.floats(kTileRows * kBlock);
    q.factors = scratch.floats(kBlock);
    q.order = order;
    q.bend = bend_of(pass.args->call, job.batch, head);
    start_queries(pass, job, head, q, num_rows);
    const float* packed = pass.packed[at];
    for (int32_t run = part.full_offsets[block]; run < part.full_offsets[block + 1]; ++run)
        for (int64_t k = part.full_runs[2 * run]; k < part.full_runs[2 * run + 1]; ++k)
            attend_block(q, num_rows, packed + k * pass.block_floats, part.kv_order + k * kBlock, nullptr);
    const uint64_t* masks = reinterpret_cast<const uint64_t*>(part.masks);
    for (int32_t entry = part.partial_offsets[block]; entry < part.partial_offsets[block + 1]; ++entry) {
        const int64_t k = part.partial_kv_block[entry];
        attend_block(q, num_rows, packed + k * pass.block_floats, part.kv_order + k * kBlock,
                     masks + int64_t{part.partial_mask[entry]} * kBlock);
    }
    for (int r = 0; r < num_rows; ++r) {
        if (order[r] < 0) continue;
        float* sums = q.output + r * q.v_padded;
        if (job.plane->num_parts == 1) {
            finish_row(pass, job, head, order[r], sums, q.top[r], sum_of(q.sum[r]));
            continue;
        }
        const int64_t n = pass.row_number(job, head, order[r]);
        pass.top[n] = q.top[r];
        pass.sum[n] = sum_of(q.sum[r]);
        std::memcpy(pass.wide + n * pass.v_head_dim, sums, static_cast<size_t>(pass.v_head_dim) * 4);
    }
}

// Rows of several parts are normalised, rows of none are empty. One unit for each 256 rows of a head.
constexpr int64_t kFinishedRows = 256;

void finish_unit(void* context, int64_t unit, Scratch& scratch) {
    const Pass& pass = *static_cast<Pass*>(context);
    const Job& job = pass.jobs.at[pass.first_job + pass.units.locate(unit)];
    const int64_t q_len = pass.args->call.query.shape[2], chunks = (q_len + kFinishedRows - 1) / kFinishedRows;
    const int64_t head = job.heads[unit / chunks];
    float* sums = scratch.floats(pass.v_padded);
    for (int64_t row = unit % chunks * kFinishedRows; row < (unit % chunks + 1) * kFinishedRows && row < q_len; ++row) {
        const bool sees = job.plane->query_sees == nullptr || job.plane->query_sees[row] != 0;
        const int64_t n = pass.row_number(job, head, row);
        if (sees && job.plane->num_parts == 1) continue;
        if (sees && job.plane->num_parts > 1 && pass.top[n] != kLowest) {
            std::memcpy(sums, pass.wide + n * pass.v_head_dim, static_cast<size_t>(pass.v_head_dim) * 4);
            finish_row(pass, job, head, row, sums, pass.top[n], pass.sum[n]);
        } else {
            finish_row(pass, job, head, row, sums, kLowest, 0.0f);
        }
    }
}

bool needs_finish(const Job& job) { return job.plane->num_parts != 1 || job.plane->query_sees != nullptr; }

void prepare_state(Pass& pass, Runner& runner) {
    const Forward& args = *pass.args;
    const int64_t rows = args.call.query.shape[0] * args.call.query.shape[1] * args.call.query.shape[2];
    pass.top = static_cast<float*>(runner.alloc(rows * 4));
    pass.sum = static_cast<float*>(runner.alloc(rows * 4));
    for (int64_t n = 0; n < rows; ++n) pass.top[n] = kLowest;
    if (args.wide.data != nullptr)
        pass.wide = static_cast<float*>(args.wide.data);
    else if (args.output.dtype == Dtype::float32)
        pass.wide = static_cast<float*>(args.output.data);
    else
        pass.wide = static_cast<float*>(runner.alloc(rows * pass.v_head_dim * 4));
}

int64_t packed_bytes(const Pass& pass, const Job& job) {
    int64_t blocks = 0;
    for (int64_t p = 0; p < job.plane->num_parts; ++p)
        if (job.plane->parts[p].kv_blocks > blocks) blocks = job.plane->parts[p].kv_blocks;
    return blocks * pass.block_floats * 4;
}

void run_wave(Pass& pass, int64_t jobs, Runner& runner) {
    Job* job = pass.jobs.at + pass.first_job;
    pass.units.jobs = jobs;
    pass.units.first[0] = 0;
    for (pass.part = 0; pass.part < pass.jobs.max_parts; ++pass.part) {
        for (int64_t j = 0; j < jobs; ++j) {
            const bool there = pass.part < job[j].plane->num_parts;
            const int64_t blocks = there ? job[j].plane->parts[pass.part].kv_blocks : 0;
            pass.units.first[j + 1] = pass.units.first[j] + (blocks + kPackedBlocks - 1) / kPackedBlocks;
        }
        runner.run(pass.units.total(), pack_unit, &pass);
        for (int64_t j = 0; j < jobs; ++j) {
            const bool there = pass.part < job[j].plane->num_parts;
            const int64_t blocks = there ? job[j].plane->parts[pass.part].q_blocks : 0;
            pass.units.first[j + 1] = pass.units.first[j] + blocks * job[j].num_heads;
        }
        runner.run(pass.units.total(), attend_unit, &pass);
    }
    const int64_t chunks = (pass.args->call.query.shape[2] + kFinishedRows - 1) / kFinishedRows;
    for (int64_t j = 0; j < jobs; ++j)
        pass.units.first[j + 1] = pass.units.first[j] + (needs_finish(job[j]) ? chunks * job[j].num_heads : 0);
    if (pass.units.total() > 0) runner.run(pass.units.total(), finish_unit, &pass);
}

}  // namespace

void forward(const Forward& args, Runner& runner) {
    Pass pass{};
    pass.args = &args;
    pass.head_dim = args.call.query.shape[3];
    pass.v_head_dim = args.call.value.shape[3];
    pass.v_padded = whole_vectors(pass.v_head_dim);
    pass.block_floats = kBlock * (pass.head_dim + pass.v_padded);
    pass.jobs = make_jobs(args.call, runner);
    if (pass.jobs.max_parts > 1) prepare_state(pass, runner);
    pass.units.first = static_cast<int64_t*>(runner.alloc((pass.jobs.count + 1) * 8));
    pass.packed = static_cast<float**>(runner.alloc((pass.jobs.count + 1) * 8));
    const int64_t budget = wave_bytes(args.call);
    char* memory = nullptr;
    int64_t room = 0;
    for (int64_t first = 0, stop; first < pass.jobs.count; first = stop) {
        int64_t bytes = 0;
        for (stop = first; stop < pass.jobs.count; ++stop) {
            const int64_t more = packed_bytes(pass, pass.jobs.at[stop]);
            if (stop > first && bytes + more > budget) break;
            bytes += more;
        }
        if (bytes > room) memory = static_cast<char*>(runner.alloc(room = bytes));
        char* at = memory;
        for (int64_t j = first; j < stop; ++j) {
            pass.packed[j - first] = reinterpret_cast<float*>(at);
            at += packed_bytes(pass, pass.jobs.at[j]);
        }
        pass.first_job = first;
        run_wave(pass, stop - first, runner);
    }
}

}  // namespace openwork::OPENWORK_ISA
