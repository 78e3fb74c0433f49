// numpy arrays in, kernels out. bfloat16 comes as int16.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>
#include <string>

#include "cpuid.h"
#include "exact.h"
#include "modes.h"
#include "ops.h"
#include "pool.h"

namespace py = pybind11;
using namespace exact;

namespace {

const Modes<Kernels>& modes() {
    static const Modes<Kernels> found = [] {
        Modes<Kernels> list;
#ifdef EXACT_X86
        __builtin_cpu_init();
        bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512vnni");
        if (avx512 && has_tiles(TILE_INT8)) list.push_back({"amx", amx_kernels()});
        if (avx512) list.push_back({"avx512", avx512_kernels()});
        if (__builtin_cpu_supports("avx2")) list.push_back({"avx2", avx2_kernels()});
#endif
        list.push_back({"generic", generic_kernels()});
        return list;
    }();
    return found;
}

// In which way to compute, and on how many threads.
struct Context {
    const Kernels* kernels;
    int threads;

    Context(const std::string& mode, int threads)
        : kernels(&kernels_of(modes(), mode)), threads(threads) {
        if (threads < 1) throw py::value_error("threads must be at least 1");
    }
    operator Run() const { return {*kernels, threads}; }
};

Type type_of(const py::array& x) {
    char kind = x.dtype().kind();
    py::ssize_t size = x.itemsize();
    if (kind == 'f' && size == 4) return Type::f32;
    if (kind == 'i' && size == 2) return Type::bf16;
    if (kind == 'i' && size == 8) return Type::i64;
    throw py::type_error("expected float32, bfloat16 as int16, or int64");
}

Array array(const py::array& x, py::ssize_t dims) {
    if (x.ndim() != dims || dims > 3) throw py::value_error("wrong number of dimensions");
    Array made{x.data(), type_of(x), {1, 1, 1}, {0, 0, 0}};
    for (py::ssize_t i = 0; i < dims; ++i) {
        made.shape[i] = x.shape(i);
        made.stride[i] = x.strides(i) / x.itemsize();
    }
    if (x.size() > 0 && x.shape(dims - 1) > 1 && made.stride[dims - 1] != 1)
        throw py::value_error("the last dimension must be contiguous");
    return made;
}

// Contiguous, of exactly this type: anything else would be a silent copy.
template <class T>
T* flat(const py::array& x, py::ssize_t size) {
    if (!py::isinstance<py::array_t<T>>(x) || !(x.flags() & py::array::c_style) || x.size() != size)
        throw py::value_error("expected a contiguous array of " + std::to_string(size) + " of " +
                              py::str(py::dtype::of<T>()).cast<std::string>() + ", got " +
                              std::to_string(x.size()) + " of " +
                              py::str(x.dtype()).cast<std::string>());
    return static_cast<T*>(const_cast<void*>(x.data()));
}

using Maybe = std::optional<py::array>;

Weights weights(const py::array& blocks, const py::array& units, int64_t length) {
    // blocks [E, N / 16, K / 64, digits, 1024], units [E, N] padded to 16
    if (blocks.ndim() != 5 || blocks.shape(4) != PLANE || units.ndim() != 2)
        throw py::value_error("these are no packed weights");
    Weights made{flat<uint8_t>(blocks, blocks.size()),
                 flat<double>(units, blocks.shape(0) * blocks.shape(1) * ROWS),
                 blocks.shape(0),
                 blocks.shape(1) * ROWS,
                 length,
                 static_cast<int>(blocks.shape(3))};
    if (ceil_div(length, DEPTH) != blocks.shape(2)) throw py::value_error("another length");
    return made;
}

Weights rows_of(Weights w, int64_t rows) {
    same(ceil_div(rows, ROWS) * ROWS == w.rows, "columns of the result");
    w.rows = rows;
    return w;
}

Paged paged(const py::array& cache, int64_t page_size, const py::array& table,
            const py::array& sequence, const py::array& lengths) {
    same(table.ndim() == 2 && page_size > 0, "page table");
    return {array(cache, 2),  page_size,      flat<int32_t>(table, table.size()),
            table.shape(0),   table.shape(1), flat<int32_t>(sequence, sequence.size()),
            flat<int32_t>(lengths, sequence.size()), sequence.size()};
}

}  // namespace

PYBIND11_MODULE(_exact, m) {
    m.doc() = "Kernels of the exact profile.";
    describe(m, modes());

    py::class_<Context>(m, "Context").def(py::init<const std::string&, int>());

    m.def("pack", [](const Context& run, const py::array& w, const Maybe& exponents,
                     const py::array& blocks, const py::array& units) {
        Array from = array(w, 3);
        Weights to = rows_of(weights(blocks, units, from.shape[2]), from.shape[1]);
        same(to.count == from.shape[0], "matrices");
        const int64_t* given =
            exponents ? flat<int64_t>(*exponents, from.shape[0] * from.shape[1]) : nullptr;
        freed([&] {
            pack_weights(run, from, to.digits, given, const_cast<uint8_t*>(to.blocks),
                         const_cast<double*>(to.units));
        });
    });

    m.def("linear", [](const Context& run, const py::array& x, const Maybe& exponents,
                       const py::array& blocks, const py::array& units, const py::array& out) {
        Array from = array(x, 2), to = array(out, 2);
        Weights w = rows_of(weights(blocks, units, from.shape[1]), to.shape[1]);
        same(to.shape[0] == from.shape[0] && w.count == 1, "rows");
        const int64_t* given = exponents ? flat<int64_t>(*exponents, from.shape[0]) : nullptr;
        freed([&] { linear(run, from, w, given, to); });
    });

    m.def("grouped_linear",
          [](const Context& run, const py::array& x, const py::array& offsets,
             const py::array& blocks, const py::array& units, const py::array& out) {
              Array from = array(x, 2), to = array(out, 2);
              Weights w = rows_of(weights(blocks, units, from.shape[1]), to.shape[1]);
              same(to.shape[0] == from.shape[0], "rows");
              const int32_t* bounds = flat<int32_t>(offsets, w.count + 1);
              freed([&] { grouped_linear(run, from, w, bounds, to); });
          });

    m.def("head_linear", [](const Context& run, const py::array& x, const py::array& blocks,
                            const py::array& units, const py::array& out) {
        Array from = array(x, 3), to = array(out, 3);
        Weights w = rows_of(weights(blocks, units, from.shape[2]), to.shape[2]);
        same(to.shape[0] == from.shape[0] && to.shape[1] == from.shape[1] &&
                 w.count == from.shape[1],
             "heads");
        freed([&] { head_linear(run, from, w, to); });
    });

    m.def("rms_norm", [](const Context& run, const py::array& x, const Maybe& residual,
                         const py::array& w, float eps, const py::array& h, const py::array& y) {
        Array from = array(x, 2), other = residual ? array(*residual, 2) : from;
        Array sum = array(h, 2), to = array(y, 2);
        int64_t rows = from.shape[0], width = from.shape[1];
        same(other.shape[0] == rows && other.shape[1] == width && sum.shape[0] == rows &&
                 sum.shape[1] == width && h.size() == y.size(),
             "rows");
        Norm norm{from.data,  residual ? other.data : nullptr, flat<float>(w, width), nullptr,
                  const_cast<void*>(sum.data), const_cast<void*>(to.data), from.type,
                  from.stride[0], other.stride[0], width, eps};
        freed([&] {
            each(run.threads, rows, [&](int64_t row, int) { run.kernels->rms_norm(norm, row); });
        });
    });

    m.def("layer_norm", [](const Context& run, const py::array& x, const py::array& w,
                           const py::array& b, float eps, const py::array& y) {
        Array from = array(x, 2), to = array(y, 2);
        int64_t rows = from.shape[0], width = from.shape[1];
        same(x.size() == y.size(), "rows");
        Norm norm{from.data, nullptr, flat<float>(w, width), flat<float>(b, width), nullptr,
                  const_cast<void*>(to.data), from.type, from.stride[0], 0, width, eps};
        freed([&] {
            each(run.threads, rows, [&](int64_t row, int) { run.kernels->layer_norm(norm, row); });
        });
    });

    m.def("rope", [](const Context& run, const py::array& x, const py::array& angles,
                     bool interleaved, const py::array& out) {
        Array from = array(x, 3), to = array(out, 3);
        same(x.size() == out.size(), "rows");
        Rope args{from.data, flat<float>(angles, from.shape[0] * from.shape[2]),
                  const_cast<void*>(to.data), from.type, from.shape[1], from.shape[2],
                  from.stride[0], from.stride[1], interleaved};
        freed([&] {
            each(run.threads, from.shape[0],
                 [&](int64_t token, int) { run.kernels->rope(args, token); });
        });
    });

    m.def("swiglu", [](const Context& run, const py::array& x, const py::array& out) {
        Array from = array(x, 2), to = array(out, 2);
        same(from.shape[0] == to.shape[0] && from.shape[1] == 2 * to.shape[1], "rows");
        Swiglu args{from.data, const_cast<void*>(to.data), from.type, to.shape[1], from.stride[0]};
        freed([&] {
            each(run.threads, from.shape[0],
                 [&](int64_t row, int) { run.kernels->swiglu(args, row); });
        });
    });

    m.def("combine", [](const Context& run, const py::array& rows, const py::array& places,
                        const py::array& by, const Maybe& shared, const py::array& out) {
        Array from = array(rows, 2), to = array(out, 2), other = shared ? array(*shared, 2) : to;
        same(places.ndim() == 2 && places.shape(0) == to.shape[0] && from.shape[1] == to.shape[1] &&
                 other.shape[0] == to.shape[0] && other.shape[1] == to.shape[1],
             "rows");
        const int32_t* place = flat<int32_t>(places, places.size());
        for (py::ssize_t i = 0; i < places.size(); ++i)
            if (place[i] < 0 || place[i] >= from.shape[0])
                throw py::index_error("a slot outside of the rows");
        Combine args{from.data, place, flat<float>(by, places.size()),
                     shared ? other.data : nullptr, const_cast<void*>(to.data), from.type,
                     places.shape(1), from.shape[1], from.stride[0], other.stride[0]};
        freed([&] {
            each(run.threads, to.shape[0],
                 [&](int64_t token, int) { run.kernels->combine(args, token); });
        });
    });

    m.def("route", [](const Context& run, const py::array& logits, const py::array& bias,
                      int64_t groups, int64_t kept_groups, bool normalize, float scale,
                      const py::array& ids, const py::array& by) {
        int64_t tokens = ids.shape(0), k = ids.shape(1), experts = bias.size();
        same(k <= experts && groups >= 1 && experts % groups == 0 && kept_groups <= groups &&
                 (groups == 1 || experts >= 2 * groups),
             "experts and groups");
        Route args{flat<float>(logits, tokens * experts), flat<float>(bias, experts),
                   flat<int32_t>(ids, tokens * k), flat<float>(by, tokens * k), experts, k, groups,
                   kept_groups, normalize, scale};
        freed([&] { route(run, args, tokens); });
    });

    m.def("index_scores", [](const Context& run, const py::array& q, const py::array& w,
                             const py::array& keys, int64_t page_size, const py::array& table,
                             const py::array& sequence, const py::array& lengths,
                             const py::array& out) {
        Array query = array(q, 3);
        Paged from = paged(keys, page_size, table, sequence, lengths);
        int64_t width = out.ndim() == 2 ? out.shape(1) : 0;
        same(query.shape[0] == from.tokens && query.shape[2] == from.cache.shape[1], "keys");
        for (int64_t t = 0; t < from.tokens; ++t) same(from.lengths[t] <= width, "lengths");
        const float* by = flat<float>(w, from.tokens * query.shape[1]);
        float* to = flat<float>(out, from.tokens * width);
        freed([&] { index_scores(run, query, by, from, to, width); });
    });

    m.def("dsa_select", [](const Context& run, const py::array& q, const py::array& w,
                           const py::array& keys, int64_t page_size, const py::array& table,
                           const py::array& sequence, const py::array& lengths,
                           const py::array& out) {
        Array query = array(q, 3);
        Paged from = paged(keys, page_size, table, sequence, lengths);
        same(query.shape[0] == from.tokens && query.shape[2] == from.cache.shape[1] &&
                 out.ndim() == 2,
             "keys");
        const float* by = flat<float>(w, from.tokens * query.shape[1]);
        int32_t* to = flat<int32_t>(out, from.tokens * out.shape(1));
        int64_t k = out.shape(1);
        freed([&] { dsa_select(run, query, by, from, k, to); });
    });

    m.def("topk", [](const Context& run, const py::array& scores, const py::array& lengths,
                     const py::array& out) {
        Array from = array(scores, 2);
        same(out.ndim() == 2 && from.type == Type::f32, "scores");
        int64_t k = out.shape(1);
        int32_t* to = flat<int32_t>(out, from.shape[0] * k);
        const int32_t* counts = flat<int32_t>(lengths, from.shape[0]);
        for (int64_t t = 0; t < from.shape[0]; ++t) same(counts[t] <= from.shape[1], "lengths");
        freed([&] { topk(run, from, counts, k, to); });
    });

    m.def("attention", [](const Context& run, const py::array& q_latent, const py::array& q_rope,
                          const py::array& cache, int64_t page_size, const py::array& table,
                          const py::array& sequence, const py::array& lengths, float factor,
                          const Maybe& indices, const py::array& out) {
        Array latent = array(q_latent, 3), turned = array(q_rope, 3), to = array(out, 3);
        Paged from = paged(cache, page_size, table, sequence, lengths);
        int64_t tokens = from.tokens, k = indices && indices->ndim() == 2 ? indices->shape(1) : 0;
        same(latent.shape[0] == tokens && turned.shape[0] == tokens &&
                 latent.shape[1] == turned.shape[1] && q_latent.size() == out.size() &&
                 latent.shape[2] + turned.shape[2] == from.cache.shape[1],
             "queries and rows");
        const int32_t* chosen = indices ? flat<int32_t>(*indices, tokens * k) : nullptr;
        freed([&] { attention(run, latent, turned, from, factor, chosen, k, to); });
    });

    m.def("sample", [](const Context& run, const py::array& logits, const py::array& temperature,
                       const py::array& limits, const py::array& draws, const py::array& out) {
        Array from = array(logits, 2);
        int64_t rows = from.shape[0];
        same(from.type == Type::f32 && from.shape[1] > 0, "logits");
        const float* heat = flat<float>(temperature, rows);
        const int64_t* limit = flat<int64_t>(limits, rows);
        const int32_t* draw = flat<int32_t>(draws, rows);
        int32_t* to = flat<int32_t>(out, rows);
        freed([&] { sample(run, from, heat, limit, draw, to); });
    });
}
