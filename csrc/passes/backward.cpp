// The backward pass: five products for each block of 64 queries and 64 keys.
//
//     S = Q K'     P = 2^(S - lse)     dP = dO V'     dS = P (dP - delta)
//     dV += P' dO     dK += dS' Q     dQ += dS K
//
// with delta = dO . O of a row (less the gradient of its lse); gradients.h has the block. Everything is packed once for
// each part: queries, their gradients and keys by rows, keys and values also transposed.
//
// The order of sums. The key blocks of a part are cut into n segments, its query blocks likewise, and a cell is one of
// each. Cells that share no segment run at the same time: step t of n runs the cells (k, (k + t) mod n). So each unit
// adds to rows that nobody else touches in that step, every sum has one order, and no partial sums need memory. n
// depends on the layout and on the number of heads alone.

#include "../kernels/gradients.h"
#include "../kernels/jobs.h"

namespace openwork::OPENWORK_ISA {
namespace {

constexpr int64_t kCells = 32;      // cells that may run at the same time, over all jobs, where there are as many blocks
constexpr int64_t kUnitsForEachThread = 4;
constexpr int64_t kChunkRows = 256;  // rows that one unit prepares or rounds

struct Pass : Shapes {
    const Backward* args;
    Jobs jobs;
    float *lse2, *delta;                         // [batch, q_heads, q_len]; lse2 natural where scores are bent
    float *grad_query, *grad_key, *grad_value;   // float32 sums, nullptr: not wanted
    double *sink_sums, *slope_sums;              // [batch * q_heads, chunks or q_blocks], summed in order at the end
    int64_t chunks, slope_blocks;
    int64_t key_floats, query_floats;  // of a packed block
    float key_factor;                  // takes the packed queries' factor out of dK
    // of the wave, rank, part and step at work
    int64_t first_job, part, step;
    Units units;
    float **packed_keys, **packed_queries;  // for each job of the wave
};

int64_t row_number(const Pass& pass, int64_t batch, int64_t head, int64_t row) {
    const Tensor& query = pass.args->call.query;
    return (batch * query.shape[1] + head) * query.shape[2] + row;
}

// lse and delta of 256 rows of one head, the gradient of its sink, and zeros in the gradient of the queries.
void prepare_unit(void* context, int64_t unit, Scratch& scratch) {
    const Pass& pass = *static_cast<Pass*>(context);
    const Backward& args = *pass.args;
    const Tensor& query = args.call.query;
    const int64_t number = unit / pass.chunks, batch = number / query.shape[1], head = number % query.shape[1];
    const int64_t first = unit % pass.chunks * kChunkRows;
    const int64_t stop = first + kChunkRows < query.shape[2] ? first + kChunkRows : query.shape[2];
    float* grad = scratch.floats(pass.v_head_dim);
    double sink_sum = 0.0;
    for (int64_t row = first; row < stop; ++row) {
        const int64_t n = row_number(pass, batch, head, row);
        const float lse = *float_row(args.lse, batch, head, row);
        pass.lse2[n] = -kLowest;
        pass.delta[n] = 0.0f;
        if (lse == -INFINITY) continue;
        pass.lse2[n] = pass.bends ? lse : lse * kLog2e;
        float offset = 0.0f;
        if (args.grad_output.data != nullptr) {
            read_row(grad, args.grad_output, batch, head, row, pass.v_head_dim, 1.0f);
            const float* output = float_row(args.output, batch, head, row);
            const int64_t step = args.output.stride[3];
            Vector sums = splat(0.0f);
            int64_t c = 0;
            if (step == 1)
                for (; c + kLanes <= pass.v_head_dim; c += kLanes) sums += load(grad + c) * load(output + c);
            offset = sum_of(sums);
            for (; c < pass.v_head_dim; ++c) offset += grad[c] * output[c * step];
        }
        const float kept = kept_beside_sink(args.call.sink, head, lse);
        sink_sum -= static_cast<double>((1.0f - kept) * offset);
        pass.delta[n] = kept * offset;
        if (args.grad_lse.data != nullptr) {
            const Tensor& grad_lse = args.grad_lse;
            pass.delta[n] -= static_cast<const float*>(
                grad_lse.data)[batch * grad_lse.stride[0] + head * grad_lse.stride[1] + row * grad_lse.stride[2]];
        }
    }
    if (pass.sink_sums != nullptr) pass.sink_sums[unit] = sink_sum;
    if (pass.grad_query != nullptr) {
        const int64_t n = row_number(pass, batch, head, first);
        zero(pass.grad_query + n * pass.head_dim, (stop - first) * pass.head_dim);
    }
}

void clear_keys_unit(void* context, int64_t unit, Scratch&) {
    const Pass& pass = *static_cast<Pass*>(context);
    const int64_t kv_len = pass.args->call.key.shape[2];
    if (pass.grad_key != nullptr) zero(pass.grad_key + unit * kv_len * pass.head_dim, kv_len * pass.head_dim);
    if (pass.grad_value != nullptr) zero(pass.grad_value + unit * kv_len * pass.v_head_dim, kv_len * pass.v_head_dim);
}

void pack_keys_unit(void* context, int64_t unit, Scratch& scratch) {
    const Pass& pass = *static_cast<Pass*>(context);
    const int64_t at = pass.units.locate(unit);
    const Job& job = pass.jobs.at[pass.first_job + at];
    const Call& call = pass.args->call;
    float* to = pass.packed_keys[at] + unit * pass.key_floats;
    float* rows = to + pass.head_dim * kBlock;
    float* values = scratch.floats(kBlock * pass.v_padded);
    const int32_t* order = job.plane->parts[pass.part].kv_order + unit * kBlock;
    gather_rows(rows, call.key, job.batch, job.kv_head, order, pass.padded, 1.0f);
    transpose_block(to, rows, pass.padded, pass.head_dim);
    gather_rows(values, call.value, job.batch, job.kv_head, order, pass.v_padded, 1.0f);
    transpose_block(rows + pass.padded * kBlock, values, pass.v_padded, pass.v_head_dim);
}

void pack_queries_unit(void* context, int64_t unit, Scratch&) {
    const Pass& pass = *static_cast<Pass*>(context);
    const int64_t at = pass.units.locate(unit);
    const Job& job = pass.jobs.at[pass.first_job + at];
    const Part& part = job.plane->parts[pass.part];
    const Backward& args = *pass.args;
    const int64_t block = unit % part.q_blocks, head = job.heads[unit / part.q_blocks];
    const int32_t* order = part.q_order + block * kBlock;
    float* rows = pass.packed_queries[at] + unit * pass.query_floats;
    float *grads = rows + pass.padded * kBlock, *lse2 = grads + pass.v_padded * kBlock;
    const float factor = pass.bends ? args.call.scale : args.call.scale * kLog2e;
    gather_rows(rows, args.call.query, job.batch, head, order, pass.padded, factor);
    for (int r = 0; r < kBlock; ++r) {
        float* grad = grads + r * pass.v_padded;
        lse2[r] = -kLowest;
        lse2[kBlock + r] = 0.0f;
        if (order[r] < 0 || args.grad_output.data == nullptr) zero(grad, pass.v_padded);
        if (order[r] < 0) continue;
        const int64_t n = row_number(pass, job.batch, head, order[r]);
        lse2[r] = pass.lse2[n];
        lse2[kBlock + r] = pass.delta[n];
        if (args.grad_output.data == nullptr) continue;
        const float kept = kept_beside_sink(args.call.sink, head, *float_row(args.lse, job.batch, head, order[r]));
        read_row(grad, args.grad_output, job.batch, head, order[r], pass.v_padded, kept);
    }
}

// One query block of one head against the key block at work.
void visit(const Pass& pass, const Job& job, Work& work, int64_t at, int64_t head, int64_t block, const KeyBlock& k,
           const uint64_t* mask) {
    const Part& part = job.plane->parts[pass.part];
    work.q_order = part.q_order + block * kBlock;
    int num_rows = kBlock;
    while (num_rows > 0 && work.q_order[num_rows - 1] < 0) --num_rows;
    if (num_rows == 0) return;
    float* grad_rows[kBlock];
    const int64_t number = job.batch * pass.args->call.query.shape[1] + job.heads[head];
    for (int r = 0; r < kBlock && pass.grad_query != nullptr; ++r) {
        const int32_t row = work.q_order[r];
        const int64_t n = number * pass.args->call.query.shape[2] + row;
        grad_rows[r] = row < 0 ? nullptr : pass.grad_query + n * pass.head_dim;
    }
    if (pass.slope_sums != nullptr) work.slope_sum = pass.slope_sums + number * pass.slope_blocks + block;
    const float* packed = pass.packed_queries[at] + (head * part.q_blocks + block) * pass.query_floats;
    backward_block(pass, work, query_block(pass, packed), k, mask, num_rows, grad_rows);
}

// What the unit has summed for a key block goes to its keys.
void flush(const Pass& pass, const Job& job, const Work& work) {
    const Tensor& key = pass.args->call.key;
    const int64_t number = (job.batch * key.shape[1] + job.kv_head) * key.shape[2];
    for (int r = 0; r < kBlock; ++r) {
        const int32_t row = work.kv_order[r];
        if (row < 0) continue;
        if (pass.grad_key != nullptr)
            add_rows(pass.grad_key + (number + row) * pass.head_dim, work.key_sums + r * pass.padded, pass.head_dim,
                     pass.key_factor);
        if (pass.grad_value != nullptr)
            add_rows(pass.grad_value + (number + row) * pass.v_head_dim, work.value_sums + r * pass.v_padded,
                     pass.v_head_dim, 1.0f);
    }
}

int64_t cells_of(const Pass& pass, const Part& part) {
    const int64_t most = part.q_blocks > part.kv_blocks ? part.q_blocks : part.kv_blocks;
    const int64_t wanted = (kCells + pass.jobs.count - 1) / pass.jobs.count;
    return wanted < most ? wanted : most;
}

void cell_unit(void* context, int64_t unit, Scratch& scratch) {
    const Pass& pass = *static_cast<Pass*>(context);
    const int64_t at = pass.units.locate(unit);
    const Job& job = pass.jobs.at[pass.first_job + at];
    const Part& part = job.plane->parts[pass.part];
    const int64_t n = cells_of(pass, part), q_segment = (unit + pass.step) % n;
    const int64_t first = part.q_blocks * q_segment / n, stop = part.q_blocks * (q_segment + 1) / n;
    Work work = make_work(pass, scratch);
    const uint64_t* masks = reinterpret_cast<const uint64_t*>(part.masks);
    for (int64_t key = part.kv_blocks * unit / n; key < part.kv_blocks * (unit + 1) / n; ++key) {
        const KeyBlock k = key_block(pass, pass.packed_keys[at] + key * pass.key_floats);
        work.kv_order = part.kv_order + key * kBlock;
        bool any = false;
        for (int64_t head = 0; head < job.num_heads; ++head) {
            bool started = false;
            const auto start = [&] {
                if (!any) {
                    zero(work.key_sums, kBlock * pass.padded);
                    zero(work.value_sums, kBlock * pass.v_padded);
                }
                if (!started) {
                    work.bend = bend_of(pass.args->call, job.batch, job.heads[head]);
                    work.simple = !work.bend.scores() && !work.bend.dropout;
                }
                any = started = true;
            };
            for (int32_t run = part.kv_full_offsets[key]; run < part.kv_full_offsets[key + 1]; ++run) {
                const int64_t from = part.kv_full_runs[2 * run], to = part.kv_full_runs[2 * run + 1];
                for (int64_t block = from > first ? from : first; block < to && block < stop; ++block) {
                    start();
                    visit(pass, job, work, at, head, block, k, nullptr);
                }
            }
            for (int32_t entry = part.kv_partial_offsets[key]; entry < part.kv_partial_offsets[key + 1]; ++entry) {
                const int64_t block = part.kv_partial_q_block[entry];
                if (block < first || block >= stop) continue;
                start();
                visit(pass, job, work, at, head, block, k, masks + int64_t{part.kv_partial_mask[entry]} * kBlock);
            }
        }
        if (any) flush(pass, job, work);
    }
}

// Sums become gradients in the dtype of the inputs.
struct Rounding {
    const Tensor* to;
    const float* from;
};

void round_unit(void* context, int64_t unit, Scratch&) {
    const Rounding& rounding = *static_cast<Rounding*>(context);
    const Tensor& to = *rounding.to;
    const int64_t chunks = (to.shape[2] + kChunkRows - 1) / kChunkRows, number = unit / chunks;
    for (int64_t row = unit % chunks * kChunkRows; row < (unit % chunks + 1) * kChunkRows && row < to.shape[2]; ++row)
        write_row(to, number / to.shape[1], number % to.shape[1], row,
                  rounding.from + (number * to.shape[2] + row) * to.shape[3], to.shape[3]);
}

float* sums_for(const Tensor& grad, Runner& runner) {
    if (grad.data == nullptr || grad.dtype == Dtype::float32) return static_cast<float*>(grad.data);
    return static_cast<float*>(runner.alloc(grad.shape[0] * grad.shape[1] * grad.shape[2] * grad.shape[3] * 4));
}

void round_sums(const Tensor& grad, const float* sums, Runner& runner) {
    if (grad.data == nullptr || grad.dtype == Dtype::float32) return;
    Rounding rounding{&grad, sums};
    runner.run(grad.shape[0] * grad.shape[1] * ((grad.shape[2] + kChunkRows - 1) / kChunkRows), round_unit, &rounding);
}

int64_t most_blocks(const Job& job, bool queries) {
    int64_t most = 0;
    for (int64_t p = 0; p < job.plane->num_parts; ++p) {
        const Part& part = job.plane->parts[p];
        const int64_t blocks = queries ? part.q_blocks : part.kv_blocks;
        if (blocks > most) most = blocks;
    }
    return most;
}

template <typename Count>
int64_t number_units(Pass& pass, int64_t jobs, int64_t rank, Count count) {
    const Job* job = pass.jobs.at + pass.first_job;
    pass.units.first[0] = 0;
    for (int64_t j = 0; j < jobs; ++j) {
        const bool there = job[j].rank == rank && pass.part < job[j].plane->num_parts;
        pass.units.first[j + 1] = pass.units.first[j] + (there ? count(job[j], job[j].plane->parts[pass.part]) : 0);
    }
    pass.units.jobs = jobs;
    return pass.units.total();
}

void run_wave(Pass& pass, int64_t jobs, Runner& runner) {
    for (int64_t rank = 0; rank < pass.jobs.ranks; ++rank) {
        for (pass.part = 0; pass.part < pass.jobs.max_parts; ++pass.part) {
            if (number_units(pass, jobs, rank, [](const Job&, const Part& part) { return part.kv_blocks; }) == 0) continue;
            runner.run(pass.units.total(), pack_keys_unit, &pass);
            number_units(pass, jobs, rank, [](const Job& job, const Part& part) { return part.q_blocks * job.num_heads; });
            runner.run(pass.units.total(), pack_queries_unit, &pass);
            int64_t steps = 0;
            number_units(pass, jobs, rank, [&](const Job&, const Part& part) {
                const int64_t n = cells_of(pass, part);
                if (n > steps) steps = n;
                return n;
            });
            for (pass.step = 0; pass.step < steps; ++pass.step) runner.run(pass.units.total(), cell_unit, &pass);
        }
    }
}

void run_waves(Pass& pass, Runner& runner) {
    char* memory = nullptr;
    int64_t room = 0;
    for (int64_t first = 0, stop; first < pass.jobs.count; first = stop) {
        WaveSize wave = wave_size(pass.args->call, runner, kUnitsForEachThread);
        for (stop = first; stop < pass.jobs.count; ++stop) {
            const Job& job = pass.jobs.at[stop];
            const int64_t at = wave.bytes, keys = most_blocks(job, false) * pass.key_floats * 4;
            const int64_t queries = most_blocks(job, true) * job.num_heads * pass.query_floats * 4;
            if (!wave.take(keys + queries, kCells / pass.jobs.count + 1)) break;
            pass.packed_keys[stop - first] = reinterpret_cast<float*>(at);
            pass.packed_queries[stop - first] = reinterpret_cast<float*>(at + keys);
        }
        if (wave.bytes > room) memory = static_cast<char*>(runner.alloc(room = wave.bytes));
        for (int64_t j = 0; j < stop - first; ++j) {
            pass.packed_keys[j] = reinterpret_cast<float*>(memory + reinterpret_cast<intptr_t>(pass.packed_keys[j]));
            pass.packed_queries[j] =
                reinterpret_cast<float*>(memory + reinterpret_cast<intptr_t>(pass.packed_queries[j]));
        }
        pass.first_job = first;
        run_wave(pass, stop - first, runner);
    }
}

void sum_in_order(const Tensor& to, const double* sums, int64_t heads, int64_t each) {
    if (to.data == nullptr) return;
    for (int64_t h = 0; h < heads; ++h) {
        double sum = 0.0;
        for (int64_t i = 0; i < each; ++i) sum += sums[h * each + i];
        static_cast<float*>(to.data)[h] = static_cast<float>(sum);
    }
}

void allocate(Pass& pass, Runner& runner) {
    const Backward& args = *pass.args;
    const int64_t heads = args.call.query.shape[0] * args.call.query.shape[1], rows = heads * args.call.query.shape[2];
    pass.lse2 = static_cast<float*>(runner.alloc(rows * 4));
    pass.delta = static_cast<float*>(runner.alloc(rows * 4));
    pass.grad_query = sums_for(args.grad_query, runner);
    pass.grad_key = sums_for(args.grad_key, runner);
    pass.grad_value = sums_for(args.grad_value, runner);
    pass.chunks = (args.call.query.shape[2] + kChunkRows - 1) / kChunkRows;
    if (args.grad_sink.data != nullptr) pass.sink_sums = static_cast<double*>(runner.alloc(heads * pass.chunks * 8));
    for (int64_t j = 0; j < pass.jobs.count; ++j) {
        const int64_t blocks = most_blocks(pass.jobs.at[j], true);
        if (blocks > pass.slope_blocks) pass.slope_blocks = blocks;
    }
    if (args.grad_slopes.data != nullptr) {
        pass.slope_sums = static_cast<double*>(runner.alloc(heads * pass.slope_blocks * 8));
        for (int64_t i = 0; i < heads * pass.slope_blocks; ++i) pass.slope_sums[i] = 0.0;
    }
    pass.units.first = static_cast<int64_t*>(runner.alloc((pass.jobs.count + 1) * 8));
    pass.packed_keys = static_cast<float**>(runner.alloc(pass.jobs.count * 8));
    pass.packed_queries = static_cast<float**>(runner.alloc(pass.jobs.count * 8));
}

}  // namespace

void backward(const Backward& args, Runner& runner) {
    Pass pass{};
    pass.args = &args;
    pass.head_dim = args.call.query.shape[3];
    pass.v_head_dim = args.call.value.shape[3];
    pass.padded = whole_vectors(pass.head_dim);
    pass.v_padded = whole_vectors(pass.v_head_dim);
    pass.key_floats = kBlock * (pass.head_dim + pass.padded + pass.v_head_dim);
    pass.query_floats = kBlock * (pass.padded + pass.v_padded + 2);
    pass.bends = bends_scores(args.call);
    pass.key_factor = pass.bends ? 1.0f : kLn2;
    pass.jobs = make_jobs(args.call, runner);
    pass.scale = args.call.scale;
    pass.wants_query = args.grad_query.data != nullptr;
    pass.wants_key = args.grad_key.data != nullptr;
    pass.wants_value = args.grad_value.data != nullptr;
    allocate(pass, runner);
    const int64_t heads = args.call.query.shape[0] * args.call.query.shape[1];
    runner.run(heads * pass.chunks, prepare_unit, &pass);
    runner.run(args.call.key.shape[0] * args.call.key.shape[1], clear_keys_unit, &pass);
    run_waves(pass, runner);
    round_sums(args.grad_query, pass.grad_query, runner);
    round_sums(args.grad_key, pass.grad_key, runner);
    round_sums(args.grad_value, pass.grad_value, runner);
    sum_in_order(args.grad_sink, pass.sink_sums, heads, pass.chunks);
    sum_in_order(args.grad_slopes, pass.slope_sums, heads, pass.slope_blocks);
}

}  // namespace openwork::OPENWORK_ISA
