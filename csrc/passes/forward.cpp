// The forward pass, pair by pair: right for every call, and slow.
#include "../kernels/pairs.h"

namespace openwork::OPENWORK_ISA {

namespace {

constexpr float kInfinity = __builtin_inff();

// One head of one sequence. A row keeps the largest score so far, the sum of exp(score - largest) and the sum of
// values weighted alike.
void one_head(void* context, int64_t unit, Scratch& scratch) {
    const Forward& args = *static_cast<const Forward*>(context);
    const Call& call = args.call;
    const int64_t q_heads = call.query.shape[1], q_len = call.query.shape[2];
    const int64_t head_dim = call.query.shape[3], v_head_dim = call.value.shape[3];
    const int64_t batch = unit / q_heads, head = unit % q_heads;
    const int64_t kv_head = head / (q_heads / call.key.shape[1]);
    const Head options(call, batch, head);

    float* largest = scratch.floats(q_len);
    float* total = scratch.floats(q_len);
    float* sums = scratch.floats(q_len * v_head_dim);
    float* query = scratch.floats(head_dim);
    float* key = scratch.floats(head_dim);
    float* value = scratch.floats(v_head_dim);
    for (int64_t i = 0; i < q_len; ++i) largest[i] = -kInfinity, total[i] = 0.0f;
    for (int64_t i = 0; i < q_len * v_head_dim; ++i) sums[i] = 0.0f;

    each_row(call.layout->plane(batch, head), [&](const Part& part, int64_t q, const int32_t* keys, auto allowed) {
        load_row(call.query, batch, head, q, query);
        for (int64_t k = 0; k < part.kv_block; ++k) {
            if (keys[k] < 0 || !allowed(k)) continue;
            load_row(call.key, batch, kv_head, keys[k], key);
            const float score = options.score(dot(query, key, head_dim), q, keys[k]);
            float* sum = sums + q * v_head_dim;
            if (score > largest[q]) {
                const float shrink = std::exp(largest[q] - score);
                total[q] *= shrink;
                for (int64_t d = 0; d < v_head_dim; ++d) sum[d] *= shrink;
                largest[q] = score;
            }
            const float p = std::exp(score - largest[q]);
            total[q] += p;
            const float weight = p * options.kept(q, keys[k]);
            load_row(call.value, batch, kv_head, keys[k], value);
            for (int64_t d = 0; d < v_head_dim; ++d) sum[d] += weight * value[d];
        }
    });

    float* lse = static_cast<float*>(args.lse.data) + offset_of(args.lse, batch, head, 0);
    for (int64_t q = 0; q < q_len; ++q) {
        const bool empty = largest[q] == -kInfinity;
        lse[q] = empty ? -kInfinity : largest[q] + std::log(total[q]);
        float factor = empty ? 0.0f : 1.0f / total[q];
        if (!empty && call.sink.data != nullptr) factor /= 1.0f + std::exp(options.sink() - lse[q]);
        float* sum = sums + q * v_head_dim;
        for (int64_t d = 0; d < v_head_dim; ++d) sum[d] *= factor;
        store_row(args.output, batch, head, q, sum);
        if (args.wide.data != nullptr) store_row(args.wide, batch, head, q, sum);
    }
}

}  // namespace

void forward(const Forward& args, Runner& runner) {
    runner.run(args.call.query.shape[0] * args.call.query.shape[1], one_head, const_cast<Forward*>(&args));
}

}  // namespace openwork::OPENWORK_ISA
