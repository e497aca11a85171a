// The forward pass: packed keys once for each head and part, then one unit of work for each query block.
//
// A plane of several parts visits a query several times. Between parts the sums lie unnormalised in the output, with the
// maximum and the denominator of each row beside: the parts are merged exactly, in their order, and normalised at the end.

#include "../kernels/attend.h"
#include "../kernels/jobs.h"

namespace openwork::OPENWORK_ISA {
namespace {

constexpr int kPackedBlocks = 4;  // key blocks that one unit packs
constexpr int64_t kUnitsForEachThread = 16;

struct Pass {
    const Forward* args;
    int64_t head_dim, v_head_dim, v_padded;
    bool bends;
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

// Output and lse of one row from its unnormalised sums.
void finish_row(const Pass& pass, const Job& job, int64_t head, int64_t row, float* sums, float top, float sum) {
    const Forward& args = *pass.args;
    const int64_t n = pass.row_number(job, head, row), columns = pass.v_head_dim;
    float lse = -INFINITY, factor = 0.0f;
    if (sum > 0.0f || sum != sum) {
        lse = log_of_sum(top, sum, pass.bends ? kLog2e : 1.0f);
        factor = kept_beside_sink(args.call.sink, head, lse) / sum;
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
    const float factor = q.bends ? call.scale : call.scale * kLog2e;
    clear_queries(q);
    for (int r = 0; r < num_rows; ++r)
        if (q.order[r] >= 0)
            read_row(q.query + r * q.head_dim, call.query, job.batch, head, q.order[r], q.head_dim, factor);
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
    Queries q = make_queries(pass.head_dim, pass.v_padded, scratch);
    const Bend bend = bend_of(pass.args->call, job.batch, head);
    q.order = order;
    set_bend(q, &bend);
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
    pass.bends = bends_scores(args.call);
    pass.jobs = make_jobs(args.call, runner);
    if (pass.jobs.max_parts > 1) prepare_state(pass, runner);
    pass.units.first = static_cast<int64_t*>(runner.alloc((pass.jobs.count + 1) * 8));
    pass.packed = static_cast<float**>(runner.alloc((pass.jobs.count + 1) * 8));
    char* memory = nullptr;
    int64_t room = 0;
    for (int64_t first = 0, stop; first < pass.jobs.count; first = stop) {
        WaveSize wave = wave_size(args.call, runner, kUnitsForEachThread);
        for (stop = first; stop < pass.jobs.count; ++stop) {
            const Job& job = pass.jobs.at[stop];
            if (!wave.take(packed_bytes(pass, job), job.num_heads * args.call.query.shape[2] / kBlock)) break;
        }
        if (wave.bytes > room) memory = static_cast<char*>(runner.alloc(room = wave.bytes));
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
