// Decoding: one new query for each sequence over the cached keys that it sees; only those are read.
//
// Query heads that read one key head through one list are the rows of a block, and the list is its keys, 64 at a time:
// the forward pass's own block (attend.h). Rows of keys and values are fetched ahead, since what limits decoding is
// memory: six rows of arithmetic cost a sixth of what reading a key from memory does. Lists are cut into chunks, so that
// one sequence can keep several threads busy; chunks are merged in their order.

#include "../kernels/attend.h"
#include "../kernels/jobs.h"

namespace openwork::OPENWORK_ISA {
namespace {

constexpr int64_t kChunk = 1024;  // keys of one unit

// Query heads of one key head that share a list.
struct Group {
    int64_t batch, kv_head, list;
    const int32_t* heads;
    int64_t num_heads;
};

struct Pass {
    const Decode* args;
    int64_t head_dim, v_head_dim, padded, v_padded;
    Group* groups;
    int64_t num_groups;
    Units units;
    int64_t result_floats;  // of one head in one chunk: output, top, sum
    float** results;        // of each group: [chunks][heads][result_floats]
};

void find_groups(Pass& pass, Runner& runner) {
    const Decode& args = *pass.args;
    const int64_t batch = args.call.query.shape[0], q_heads = args.call.query.shape[1];
    const int64_t kv_heads = args.call.key.shape[1], size = q_heads / kv_heads;
    pass.groups = static_cast<Group*>(runner.alloc(batch * q_heads * static_cast<int64_t>(sizeof(Group))));
    int32_t* heads = static_cast<int32_t*>(runner.alloc(batch * q_heads * 4));
    for (int64_t n = 0; n < batch * q_heads; ++n) {
        const int64_t b = n / q_heads, h = n % q_heads, first = h / size * size;
        int64_t before = 0;
        for (int64_t other = first; other < h; ++other)
            before += args.list_of[b * q_heads + other] == args.list_of[n] ? 1 : 0;
        if (before % kBlock != 0) continue;  // the head belongs to a group already; at most 64 are the rows of a block
        Group& group = pass.groups[pass.num_groups++];
        group = Group{b, h / size, args.list_of[n], heads, 0};
        for (int64_t other = h; other < first + size && group.num_heads < kBlock; ++other)
            if (args.list_of[b * q_heads + other] == group.list) heads[group.num_heads++] = static_cast<int32_t>(other);
        heads += group.num_heads;
    }
}

// Copies the rows of 64 keys, and brings as many of the next ones nearer, row by row: what is fetched in one go waits.
void gather_and_fetch(float* to, const Tensor& x, const Group& group, const int32_t* order, const int64_t* next,
                      int64_t num_next, int64_t padded) {
    const int64_t bytes = x.shape[3] * (x.dtype == Dtype::float32 ? 4 : 2);
    for (int k = 0; k < kBlock; ++k, to += padded) {
        if (k < num_next) {
            const char* row = row_at(x, group.batch, group.kv_head, next[k]);
            for (int64_t at = 0; at < bytes; at += 64) __builtin_prefetch(row + at, 0, 2);
        }
        if (order[k] < 0)
            zero(to, padded);
        else
            read_row(to, x, group.batch, group.kv_head, order[k], padded, 1.0f);
    }
}

void start_heads(const Pass& pass, const Group& group, const Queries& q, Bend* bends) {
    const Decode& args = *pass.args;
    const int64_t kv_len = args.call.key.shape[2];
    clear_queries(q);
    for (int64_t r = 0; r < group.num_heads; ++r) {
        Bend& bend = bends[r] = bend_of(args.call, group.batch, group.heads[r]);
        bend.q_start = args.q_positions ? args.q_positions[group.batch] : kv_len - 1;
        bend.kv_positions = args.kv_positions ? args.kv_positions + group.batch * kv_len : nullptr;
        const float factor = bend.scores() ? args.call.scale : args.call.scale * kLog2e;
        read_row(q.query + r * q.head_dim, args.call.query, group.batch, group.heads[r], 0, q.head_dim, factor);
    }
}

void chunk_unit(void* context, int64_t unit, Scratch& scratch) {
    const Pass& pass = *static_cast<Pass*>(context);
    const Call& call = pass.args->call;
    const int64_t at = pass.units.locate(unit);
    const Group& group = pass.groups[at];
    const int64_t* keys = pass.args->lists[group.list] + unit * kChunk;
    const int64_t left = pass.args->lengths[group.list] - unit * kChunk, count = left < kChunk ? left : kChunk;
    const int num_heads = static_cast<int>(group.num_heads);
    Queries q = make_queries(pass.head_dim, pass.v_padded, scratch);
    Bend* bends = static_cast<Bend*>(scratch.bytes(kBlock * static_cast<int64_t>(sizeof(Bend))));
    int32_t zeros[kBlock] = {}, order[kBlock];
    start_heads(pass, group, q, bends);
    for (int r = num_heads; r < kBlock; ++r) bends[r] = bends[0];
    q.order = zeros;
    set_bends(q, bends, 1);
    float* rows = scratch.floats(kBlock * pass.padded);
    float* packed = scratch.floats(kBlock * (pass.head_dim + pass.v_padded));
    for (int64_t first = 0; first < count; first += kBlock) {
        const int64_t here = count - first < kBlock ? count - first : kBlock;
        for (int64_t k = 0; k < kBlock; ++k) order[k] = k < here ? static_cast<int32_t>(keys[first + k]) : -1;
        const int64_t* next = keys + first + here;
        const int64_t left_over = count - first - here, num_next = left_over < kBlock ? left_over : kBlock;
        gather_and_fetch(rows, call.key, group, order, next, num_next, pass.padded);
        transpose_block(packed, rows, pass.padded, pass.head_dim);
        float* values = packed + pass.head_dim * kBlock;
        gather_and_fetch(values, call.value, group, order, next, num_next, pass.v_padded);
        uint64_t mask[kBlock];
        for (int r = 0; r < kBlock; ++r) mask[r] = ~uint64_t{0} >> (kBlock - here);
        attend_block(q, num_heads, packed, order, here < kBlock ? mask : nullptr);
    }
    for (int r = 0; r < num_heads; ++r) {
        float* result = pass.results[at] + (unit * num_heads + r) * pass.result_floats;
        std::memcpy(result, q.output + r * pass.v_padded, static_cast<size_t>(pass.v_padded) * 4);
        result[pass.v_padded] = q.top[r];
        result[pass.v_padded + 1] = sum_of(q.sum[r]);
    }
}

// Merges the chunks of a group, in their order.
void finish_unit(void* context, int64_t unit, Scratch& scratch) {
    const Pass& pass = *static_cast<Pass*>(context);
    const Decode& args = *pass.args;
    const Group& group = pass.groups[unit];
    const int64_t chunks = (args.lengths[group.list] + kChunk - 1) / kChunk, columns = pass.v_head_dim;
    const float base = bends_scores(args.call) ? kLog2e : 1.0f;
    float* output = scratch.floats(pass.v_padded);
    for (int64_t r = 0; r < group.num_heads; ++r) {
        const float* result = pass.results[unit] + r * pass.result_floats;
        const int64_t step = group.num_heads * pass.result_floats, head = group.heads[r];
        float top = kLowest, sum = 0.0f, lse = -INFINITY;
        for (int64_t c = 0; c < chunks; ++c)
            if (result[c * step + pass.v_padded] > top) top = result[c * step + pass.v_padded];
        zero(output, pass.v_padded);
        for (int64_t c = 0; c < chunks; ++c) {
            const float* own = result + c * step;
            const float weight = __builtin_exp2f((own[pass.v_padded] - top) * base);
            sum += own[pass.v_padded + 1] * weight;
            for (int64_t i = 0; i < columns; ++i) output[i] += own[i] * weight;
        }
        if (chunks > 0) {
            lse = log_of_sum(top, sum, base);
            const float factor = kept_beside_sink(args.call.sink, head, lse) / sum;
            for (int64_t i = 0; i < columns; ++i) output[i] *= factor;
        }
        *float_row(args.lse, group.batch, head, 0) = lse;
        write_row(args.output, group.batch, head, 0, output, columns);
    }
}

}  // namespace

void decode(const Decode& args, Runner& runner) {
    Pass pass{};
    pass.args = &args;
    pass.head_dim = args.call.query.shape[3];
    pass.v_head_dim = args.call.value.shape[3];
    pass.padded = whole_vectors(pass.head_dim);
    pass.v_padded = whole_vectors(pass.v_head_dim);
    pass.result_floats = pass.v_padded + kLanes;
    find_groups(pass, runner);
    pass.units.jobs = pass.num_groups;
    pass.units.first = static_cast<int64_t*>(runner.alloc((pass.num_groups + 1) * 8));
    pass.results = static_cast<float**>(runner.alloc((pass.num_groups + 1) * 8));
    pass.units.first[0] = 0;
    for (int64_t g = 0; g < pass.num_groups; ++g) {
        const int64_t chunks = (args.lengths[pass.groups[g].list] + kChunk - 1) / kChunk;
        pass.units.first[g + 1] = pass.units.first[g] + chunks;
        pass.results[g] =
            static_cast<float*>(runner.alloc(chunks * pass.groups[g].num_heads * pass.result_floats * 4));
    }
    runner.run(pass.units.total(), chunk_unit, &pass);
    runner.run(pass.num_groups, finish_unit, &pass);
}

}  // namespace openwork::OPENWORK_ISA
