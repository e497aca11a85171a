// The Python face: numbers in, numbers out. Tensors come as `(data pointer, 4 sizes, 4 strides, dtype)`, the layout as
// its words; shapes are checked here, so that a wrong call raises instead of reading what is not there.
#include <nanobind/nanobind.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <atomic>
#include <stdexcept>
#include <vector>

#include "interface.h"
#include "isa.h"
#include "layout.h"
#include "pool.h"

namespace nb = nanobind;

namespace {

using namespace openwork;
using TensorTuple = std::array<int64_t, 10>;

Tensor tensor(const TensorTuple& t) {
    return {reinterpret_cast<void*>(t[0]), {t[1], t[2], t[3], t[4]}, {t[5], t[6], t[7], t[8]},
            static_cast<Dtype>(t[9])};
}

void need(bool holds, const char* what) {
    if (!holds) throw std::invalid_argument(what);
}

void need_shape(const Tensor& t, std::array<int64_t, 4> shape, const char* what) {
    if (t.data == nullptr) return;
    for (int i = 0; i < 4; ++i) need(t.shape[i] == shape[i], what);
}

struct Options {
    double scale, softcap, dropout_p;
    uint64_t seed;
    bool poisoned;
    int threads;
};

Call make_call(const std::vector<TensorTuple>& tensors, const Options& options) {
    Call call{};
    call.query = tensor(tensors.at(0)), call.key = tensor(tensors.at(1)), call.value = tensor(tensors.at(2));
    call.sink = tensor(tensors.at(3)), call.slopes = tensor(tensors.at(4));
    call.scale = static_cast<float>(options.scale), call.softcap = static_cast<float>(options.softcap);
    call.dropout = options.dropout_p > 0.0;
    call.seed = options.seed;
    const double edge = options.dropout_p * 4294967296.0;
    call.keep_from = static_cast<uint64_t>(edge) + (edge > static_cast<double>(static_cast<uint64_t>(edge)) ? 1 : 0);
    call.keep_scale = static_cast<float>(1.0 / (1.0 - options.dropout_p));

    const auto &q = call.query.shape, &k = call.key.shape, &v = call.value.shape;
    need(q[0] == k[0] && q[0] == v[0] && k[1] == v[1] && q[3] == k[3], "query, key and value do not fit each other");
    need(q[0] == 0 || q[1] == 0 || (k[1] > 0 && q[1] % k[1] == 0), "kv_heads does not divide q_heads");
    need_shape(call.sink, {q[1], 1, 1, 1}, "sink_logits must be [q_heads]");
    need_shape(call.slopes, {call.slopes.shape[0] == 1 ? 1 : q[0], q[1], 1, 1}, "slopes must be [batch or 1, q_heads]");
    return call;
}

Call make_call(const std::vector<TensorTuple>& tensors, const Layout& layout, const Options& options) {
    Call call = make_call(tensors, options);
    call.layout = &layout;
    const auto &q = call.query.shape, &k = call.key.shape, &v = call.value.shape;
    need(q[2] == layout.q_len && k[2] == layout.kv_len && v[2] == layout.kv_len, "lengths differ from the layout's");
    need((layout.index_batch == 1 || layout.index_batch == q[0]) &&
             (layout.index_heads == 1 || layout.index_heads == q[1]),
         "batch or heads differ from the layout's");
    return call;
}

const int64_t* words_at(int64_t address) { return reinterpret_cast<const int64_t*>(address); }

// tensors: query, key, value, sink_logits, alibi_slopes, output, lse, wide
void forward(const std::string& isa, const std::vector<TensorTuple>& tensors, std::pair<int64_t, int64_t> words,
             const Options& options) {
    const Isa& chosen = isa_named(isa);
    const LayoutView view(words_at(words.first), words.second);
    Forward args{.call = make_call(tensors, view.layout(), options),
                 .output = tensor(tensors.at(5)), .lse = tensor(tensors.at(6)), .wide = tensor(tensors.at(7))};
    const auto &q = args.call.query.shape, &v = args.call.value.shape;
    need(args.output.data != nullptr && args.lse.data != nullptr, "output and lse are needed");
    need_shape(args.output, {q[0], q[1], q[2], v[3]}, "output must be [batch, q_heads, q_len, v_head_dim]");
    need_shape(args.wide, {q[0], q[1], q[2], v[3]}, "wide must be [batch, q_heads, q_len, v_head_dim]");
    need_shape(args.lse, {q[0], q[1], q[2], 1}, "lse must be [batch, q_heads, q_len]");
    const nb::gil_scoped_release release;
    CallRunner runner(options.threads, options.poisoned);
    chosen.forward(args, runner);
}

// tensors: query, key, value, sink_logits, alibi_slopes, grad_output, grad_lse, output, lse, and the gradients of the
// first five
void backward(const std::string& isa, const std::vector<TensorTuple>& tensors, std::pair<int64_t, int64_t> words,
              const Options& options) {
    const Isa& chosen = isa_named(isa);
    const LayoutView view(words_at(words.first), words.second);
    Backward args{.call = make_call(tensors, view.layout(), options),
                  .grad_output = tensor(tensors.at(5)), .grad_lse = tensor(tensors.at(6)),
                  .output = tensor(tensors.at(7)), .lse = tensor(tensors.at(8)),
                  .grad_query = tensor(tensors.at(9)), .grad_key = tensor(tensors.at(10)),
                  .grad_value = tensor(tensors.at(11)), .grad_sink = tensor(tensors.at(12)),
                  .grad_slopes = tensor(tensors.at(13))};
    const auto &q = args.call.query.shape, &k = args.call.key.shape, &v = args.call.value.shape;
    need(args.output.data != nullptr && args.lse.data != nullptr, "output and lse are needed");
    for (const Tensor* t : {&args.output, &args.grad_output})
        need_shape(*t, {q[0], q[1], q[2], v[3]}, "output and its gradient must be [batch, q_heads, q_len, v_head_dim]");
    for (const Tensor* t : {&args.lse, &args.grad_lse})
        need_shape(*t, {q[0], q[1], q[2], 1}, "lse and its gradient must be [batch, q_heads, q_len]");
    need_shape(args.grad_query, {q[0], q[1], q[2], q[3]}, "the gradient of query must have its shape");
    need_shape(args.grad_key, {k[0], k[1], k[2], k[3]}, "the gradient of key must have its shape");
    need_shape(args.grad_value, {v[0], v[1], v[2], v[3]}, "the gradient of value must have its shape");
    for (const Tensor* t : {&args.grad_sink, &args.grad_slopes})
        need_shape(*t, {q[0], q[1], 1, 1}, "gradients of sink_logits and alibi_slopes must be [batch, q_heads]");
    const nb::gil_scoped_release release;
    CallRunner runner(options.threads, options.poisoned);
    chosen.backward(args, runner);
}

// tensors: query, key, value, sink_logits, alibi_slopes, output, lse; lists: (address, length) of int64 key indices;
// list_of: for each sequence and head; positions: addresses of int64, 0 for the default
void decode(const std::string& isa, const std::vector<TensorTuple>& tensors,
            const std::vector<std::pair<int64_t, int64_t>>& lists, const std::vector<int32_t>& list_of,
            std::pair<int64_t, int64_t> positions, const Options& options) {
    const Isa& chosen = isa_named(isa);
    std::vector<const int64_t*> keys;
    std::vector<int64_t> lengths;
    for (const auto& [address, length] : lists) keys.push_back(words_at(address)), lengths.push_back(length);
    Decode args{.call = make_call(tensors, options), .num_lists = static_cast<int64_t>(lists.size()),
                .lists = keys.data(), .lengths = lengths.data(), .list_of = list_of.data(),
                .q_positions = words_at(positions.first), .kv_positions = words_at(positions.second),
                .output = tensor(tensors.at(5)), .lse = tensor(tensors.at(6))};
    const auto &q = args.call.query.shape, &k = args.call.key.shape, &v = args.call.value.shape;
    need(args.output.data != nullptr && args.lse.data != nullptr, "output and lse are needed");
    need(q[2] == 1 && v[2] == k[2], "decoding takes one query, and as many values as keys");
    need_shape(args.output, {q[0], q[1], 1, v[3]}, "output must be [batch, q_heads, 1, v_head_dim]");
    need_shape(args.lse, {q[0], q[1], 1, 1}, "lse must be [batch, q_heads, 1]");
    need(static_cast<int64_t>(list_of.size()) == q[0] * q[1], "list_of must be [batch * q_heads]");
    for (const int32_t list : list_of) need(list >= 0 && list < args.num_lists, "list_of names a list that is not there");
    for (size_t n = 0; n < lists.size(); ++n)
        for (int64_t i = 0; i < lengths[n]; ++i)
            need(keys[n][i] >= 0 && keys[n][i] < k[2], "a list names a key that is not there");
    const nb::gil_scoped_release release;
    CallRunner runner(options.threads, options.poisoned);
    chosen.decode(args, runner);
}

// How often each unit ran, for tests of the pool; a unit of number `fail_at` throws.
std::vector<int> count_units(int threads, int64_t units, int64_t fail_at) {
    struct Context {
        std::vector<std::atomic<int>> counts;
        int64_t fail_at;
    } context{std::vector<std::atomic<int>>(static_cast<size_t>(units)), fail_at};
    {
        const nb::gil_scoped_release release;
        CallRunner runner(threads, false);
        runner.run(
            units,
            [](void* c, int64_t unit, Scratch& scratch) {
                auto& own = *static_cast<Context*>(c);
                scratch.floats(1000)[999] = 1.0f;
                if (unit == own.fail_at) throw std::runtime_error("unit " + std::to_string(unit) + " failed");
                own.counts[static_cast<size_t>(unit)].fetch_add(1);
            },
            &context);
    }
    return {context.counts.begin(), context.counts.end()};
}

}  // namespace

NB_MODULE(_native, m) {
    nb::class_<Options>(m, "Options")
        .def(
            "__init__",
            [](Options* self, double scale, double softcap, double dropout_p, uint64_t seed, int threads,
               bool poisoned) { new (self) Options{scale, softcap, dropout_p, seed, poisoned, threads}; },
            nb::kw_only(), nb::arg("scale"), nb::arg("softcap"), nb::arg("dropout_p"), nb::arg("seed"),
            nb::arg("threads"), nb::arg("poisoned"));
    m.def("isas", [] {
        std::vector<std::pair<std::string, bool>> found;
        for (const Isa& isa : isas()) found.emplace_back(isa.name, isa.runs_here);
        return found;
    });
    m.def("forward", &forward, nb::arg("isa"), nb::arg("tensors"), nb::arg("words"), nb::arg("options"));
    m.def("backward", &backward, nb::arg("isa"), nb::arg("tensors"), nb::arg("words"), nb::arg("options"));
    m.def("decode", &decode, nb::arg("isa"), nb::arg("tensors"), nb::arg("lists"), nb::arg("list_of"),
          nb::arg("positions"), nb::arg("options"));
    m.def("count_units", &count_units, nb::arg("threads"), nb::arg("units"), nb::arg("fail_at") = -1);
    m.def("pool_size", &pool_size);
}
