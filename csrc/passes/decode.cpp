// Decoding: one new query for each sequence over the cached keys that it sees; only those are read.
//
// What limits decoding is memory, so nothing is packed: the rows of keys and values are multiplied where they lie (rows
// of another dtype, or with gaps, are widened into scratch first), 64 keys at a time. While their scores are computed
// their values are fetched, and the next keys while the values are summed. Query heads that read one key head through one list share each row, four at a time. Lists are cut
// into chunks, so that one sequence can keep several threads busy; chunks are merged in their order.

#include "../kernels/bend.h"
#include "../kernels/jobs.h"
#include "../kernels/row_products.h"

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
    int64_t v_head_dim, padded, v_padded;
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

// The query heads of a group, and what they have summed so far.
struct Heads {
    float *query, *output, *top, *scores;  // [heads][padded], [heads][v_padded], [heads], [heads][64]
    Vector* sum;                           // [heads], lane by lane
    Bend* bends;                           // [heads]
    float base;                            // what makes a difference of scores one in base 2
};

Heads start_heads(const Pass& pass, const Group& group, Scratch& scratch) {
    const Decode& args = *pass.args;
    const int64_t kv_len = args.call.key.shape[2], heads = group.num_heads;
    Heads h{};
    h.query = scratch.floats(heads * pass.padded);
    h.output = scratch.floats(heads * pass.v_padded);
    h.top = scratch.floats(heads);
    h.scores = scratch.floats(heads * kBlock);
    h.sum = reinterpret_cast<Vector*>(scratch.floats(heads * kLanes));
    h.bends = static_cast<Bend*>(scratch.bytes(heads * static_cast<int64_t>(sizeof(Bend))));
    h.base = bends_scores(args.call) ? kLog2e : 1.0f;
    zero(h.output, heads * pass.v_padded);
    for (int64_t r = 0; r < heads; ++r) {
        Bend& bend = h.bends[r] = bend_of(args.call, group.batch, group.heads[r]);
        bend.q_start = args.q_positions ? args.q_positions[group.batch] : kv_len - 1;
        bend.kv_positions = args.kv_positions ? args.kv_positions + group.batch * kv_len : nullptr;
        h.top[r] = kLowest;
        h.sum[r] = splat(0.0f);
        const float factor = bend.scores() ? args.call.scale : args.call.scale * kLog2e;
        read_row(h.query + r * pass.padded, args.call.query, group.batch, group.heads[r], 0, pass.padded, factor);
    }
    return h;
}

// Turns the scores of a head over `count` keys into weights; lanes beyond them become 0.
void weigh(Heads& h, int64_t r, int64_t count, int64_t v_padded, const int32_t* order) {
    float* scores = h.scores + r * kBlock;
    if (h.bends[r].scores()) bend_row(scores, h.bends[r], 0, order, nullptr);
    const int vectors = static_cast<int>((count + kLanes - 1) / kLanes), rest = static_cast<int>(count % kLanes);
    if (rest != 0) {
        float* last = scores + (vectors - 1) * kLanes;
        store(last, where_set((uint64_t{1} << rest) - 1, load(last), splat(-INFINITY)));
    }
    Vector highest = splat(kLowest);
    for (int v = 0; v < vectors; ++v) highest = larger(highest, load(scores + v * kLanes));
    const float found = largest_of(highest);
    if (found > h.top[r]) {
        const Vector shrink = exp2_of(splat((h.top[r] - found) * h.base));
        h.top[r] = found;
        h.sum[r] *= shrink;
        float* output = h.output + r * v_padded;
        for (int64_t c = 0; c < v_padded; c += kLanes) store(output + c, load(output + c) * shrink);
    }
    for (int v = 0; v < vectors; ++v) {
        const Vector p = exp2_of((load(scores + v * kLanes) - splat(h.top[r])) * splat(h.base));
        h.sum[r] += p;
        store(scores + v * kLanes, p);
    }
}

void chunk_unit(void* context, int64_t unit, Scratch& scratch) {
    const Pass& pass = *static_cast<Pass*>(context);
    const Call& call = pass.args->call;
    const int64_t at = pass.units.locate(unit);
    const Group& group = pass.groups[at];
    const int64_t* list = pass.args->lists[group.list] + unit * kChunk;
    const int64_t left = pass.args->lengths[group.list] - unit * kChunk, count = left < kChunk ? left : kChunk;
    Heads h = start_heads(pass, group, scratch);
    Rows keys = rows_of(call.key, group.batch, group.kv_head, pass.padded, scratch);
    Rows values = rows_of(call.value, group.batch, group.kv_head, pass.v_padded, scratch);
    int32_t order[kBlock] = {};
    for (int64_t first = 0; first < count; first += kBlock) {
        const int64_t rest = count - first, here = rest < kBlock ? rest : kBlock;
        const int64_t following = rest - here < kBlock ? rest - here : kBlock;
        for (int64_t k = 0; k < here; ++k) order[k] = static_cast<int32_t>(list[first + k]);
        keys.find(list + first, here);
        Ahead ahead = values.ahead(list + first, here);
        for_few(group.num_heads, [&]<int heads>(int64_t r) {
            dot_rows<heads>(h.scores + r * kBlock, h.query + r * pass.padded, keys, ahead);
            ahead.count = 0;
        });
        for (int64_t r = 0; r < group.num_heads; ++r) weigh(h, r, here, pass.v_padded, order);
        values.find(list + first, here);
        ahead = keys.ahead(list + first + here, following);
        for_few(group.num_heads, [&]<int heads>(int64_t r) {
            add_rows<heads>(h.output + r * pass.v_padded, h.scores + r * kBlock, values, ahead);
            ahead.count = 0;
        });
    }
    for (int64_t r = 0; r < group.num_heads; ++r) {
        float* result = pass.results[at] + (unit * group.num_heads + r) * pass.result_floats;
        std::memcpy(result, h.output + r * pass.v_padded, static_cast<size_t>(pass.v_padded) * 4);
        result[pass.v_padded] = h.top[r];
        result[pass.v_padded + 1] = sum_of(h.sum[r]);
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
    pass.v_head_dim = args.call.value.shape[3];
    pass.padded = whole_vectors(args.call.query.shape[3]);
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
