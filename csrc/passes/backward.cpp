// The backward pass, pair by pair: right for every call, and slow.
//
// With `out = kept * sum p v` and `kept = sigmoid(lse - sink)`, the gradient of a score is
// `p * (kept * dout.v * keep - (kept * dout.out - dlse))`, and that of the sink the sum of `-(1 - kept) * dout.out`.
#include "../kernels/pairs.h"

namespace openwork::OPENWORK_ISA {

namespace {

constexpr float kInfinity = __builtin_inff();

struct Sums {
    float *query, *key, *value;
    double sink, slope;  // of all pairs of a head: as many as the layout has
};

void one_query_head(const Backward& args, int64_t batch, int64_t head, Scratch& scratch, Sums& sums) {
    const Call& call = args.call;
    const int64_t q_len = call.query.shape[2], head_dim = call.query.shape[3], v_head_dim = call.value.shape[3];
    const int64_t kv_head = head / (call.query.shape[1] / call.key.shape[1]);
    const Head options(call, batch, head);
    const float* lse = static_cast<const float*>(args.lse.data) + offset_of(args.lse, batch, head, 0);
    const int64_t lse_step = args.lse.stride[2];

    float* query = scratch.floats(head_dim);
    float* key = scratch.floats(head_dim);
    float* value = scratch.floats(v_head_dim);
    float* row = scratch.floats(v_head_dim);
    float* dout = scratch.floats(q_len * v_head_dim);
    float* offset = scratch.floats(q_len);
    for (int64_t q = 0; q < q_len; ++q) {
        float* own = dout + q * v_head_dim;
        offset[q] = 0.0f;
        for (int64_t d = 0; d < v_head_dim; ++d) own[d] = 0.0f;
        if (lse[q * lse_step] == -kInfinity) continue;
        if (args.grad_output.data != nullptr) {
            load_row(args.grad_output, batch, head, q, own);
            load_row(args.output, batch, head, q, row);
            offset[q] = dot(own, row, v_head_dim);
            if (call.sink.data != nullptr) {
                const float kept = 1.0f / (1.0f + std::exp(options.sink() - lse[q * lse_step]));
                // out is `kept` times what the keys gave: kept * dout.(out / kept) is dout.out
                sums.sink -= (1.0f - kept) * offset[q];
                for (int64_t d = 0; d < v_head_dim; ++d) own[d] *= kept;
                offset[q] *= kept;
            }
        }
        if (args.grad_lse.data != nullptr)
            offset[q] -= load(args.grad_lse, offset_of(args.grad_lse, batch, head, q));
    }

    each_row(call.layout->plane(batch, head), [&](const Part& part, int64_t q, const int32_t* keys, auto allowed) {
        load_row(call.query, batch, head, q, query);
        const float* own = dout + q * v_head_dim;
        for (int64_t k = 0; k < part.kv_block; ++k) {
            if (keys[k] < 0 || !allowed(k)) continue;
            const int64_t kv = keys[k];
            load_row(call.key, batch, kv_head, kv, key);
            load_row(call.value, batch, kv_head, kv, value);
            const float product = dot(query, key, head_dim);
            const float p = std::exp(options.score(product, q, kv) - lse[q * lse_step]);
            const float kept = options.kept(q, kv);
            for (int64_t d = 0; d < v_head_dim; ++d) sums.value[kv * v_head_dim + d] += p * kept * own[d];
            float ds = p * (kept * dot(own, value, v_head_dim) - offset[q]);
            if (call.slopes.data != nullptr) sums.slope -= double{ds} * options.distance(q, kv);
            if (call.softcap > 0.0f) {
                const float t = std::tanh(call.scale * product / call.softcap);
                ds *= 1.0f - t * t;
            }
            ds *= call.scale;
            for (int64_t d = 0; d < head_dim; ++d) {
                sums.query[q * head_dim + d] += ds * key[d];
                sums.key[kv * head_dim + d] += ds * query[d];
            }
        }
    });
}

// One key head of one sequence, with the query heads that read it.
void one_key_head(void* context, int64_t unit, Scratch& scratch) {
    const Backward& args = *static_cast<const Backward*>(context);
    const Call& call = args.call;
    const int64_t kv_heads = call.key.shape[1], group = call.query.shape[1] / kv_heads;
    const int64_t q_len = call.query.shape[2], kv_len = call.key.shape[2];
    const int64_t head_dim = call.query.shape[3], v_head_dim = call.value.shape[3];
    const int64_t batch = unit / kv_heads, kv_head = unit % kv_heads;

    Sums sums{scratch.floats(q_len * head_dim), scratch.floats(kv_len * head_dim), scratch.floats(kv_len * v_head_dim),
              0.0, 0.0};
    for (int64_t i = 0; i < kv_len * head_dim; ++i) sums.key[i] = 0.0f;
    for (int64_t i = 0; i < kv_len * v_head_dim; ++i) sums.value[i] = 0.0f;
    for (int64_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
        sums.sink = sums.slope = 0.0;
        for (int64_t i = 0; i < q_len * head_dim; ++i) sums.query[i] = 0.0f;
        one_query_head(args, batch, head, scratch, sums);
        if (args.grad_query.data != nullptr)
            for (int64_t q = 0; q < q_len; ++q) store_row(args.grad_query, batch, head, q, sums.query + q * head_dim);
        if (args.grad_sink.data != nullptr)
            store(args.grad_sink, offset_of(args.grad_sink, batch, head, 0),
                  static_cast<float>(sums.sink));
        if (args.grad_slopes.data != nullptr)
            store(args.grad_slopes, offset_of(args.grad_slopes, batch, head, 0), static_cast<float>(sums.slope));
    }
    for (int64_t k = 0; k < kv_len; ++k) {
        if (args.grad_key.data != nullptr) store_row(args.grad_key, batch, kv_head, k, sums.key + k * head_dim);
        if (args.grad_value.data != nullptr) store_row(args.grad_value, batch, kv_head, k, sums.value + k * v_head_dim);
    }
}

}  // namespace

void backward(const Backward& args, Runner& runner) {
    runner.run(args.call.key.shape[0] * args.call.key.shape[1], one_key_head, const_cast<Backward*>(&args));
}

}  // namespace openwork::OPENWORK_ISA
