// Tensors in, kernels out.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>
#include <string>

#include "../cpuid.h"
#include "../modes.h"
#include "../pool.h"
#include "fast.h"
#include "ops.h"
#include "tensor.h"

using namespace fast;

namespace {

const Modes<Kernels>& modes() {
    static const Modes<Kernels> found = [] {
        Modes<Kernels> list;
#ifdef EXACT_X86
        __builtin_cpu_init();
        bool fma = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
        bool avx512 = fma && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
        bool bf16 = avx512 && __builtin_cpu_supports("avx512bf16");
        if (bf16 && has_tiles(TILE_BF16)) list.push_back({"amx", amx_kernels()});
        if (bf16) list.push_back({"avx512-bf16", bf16_kernels()});
        if (avx512) list.push_back({"avx512", avx512_kernels()});
        if (fma) list.push_back({"avx2", avx2_kernels()});
#endif
        list.push_back({"generic", generic_kernels()});
        return list;
    }();
    return found;
}

using Maybe = std::optional<py::object>;

// Packed weights: the tensor that holds them, and what they are.
struct Packed {
    py::object storage;
    Weights weights;

    Packed(py::object held, int64_t count, int64_t rows, int64_t length, bool narrow)
        : storage(std::move(held)) {
        Tensor blocks(storage);
        Type type = narrow ? Type::bf16 : Type::f32;
        weights = {blocks.data(), type, count, rows, length};
        same(blocks.type() == type && blocks.size() * size_of(type) == weights.bytes(), "blocks");
    }
};

// In which way to compute.
struct Mill {
    const Kernels& kernels;

    explicit Mill(const std::string& mode) : kernels(kernels_of(modes(), mode)) {}
    Run run(int threads) const { return {kernels, threads < 1 ? 1 : threads}; }

    void pack(int threads, const py::object& w, const Packed& to) const {
        Array from = Tensor(w).array(3);
        const Weights& goal = to.weights;
        same(from.type == goal.type && from.shape[0] == goal.count && from.shape[1] == goal.rows &&
                 from.shape[2] == goal.length,
             "matrices");
        freed([&] { pack_weights(run(threads), from, goal); });
    }

    void linear(int threads, const py::object& x, const Packed& w, const py::object& out) const {
        Tensor rows(x), result(out);
        Array from = rows.array(2), to = result.array(2);
        same(from.shape[1] == w.weights.length && to.shape[1] == w.weights.rows &&
                 to.shape[0] == from.shape[0] && w.weights.count == 1,
             "rows and columns");
        freed([&] { fast::linear(run(threads), from, w.weights, to); });
    }

    void grouped_linear(int threads, const py::object& x, const Packed& w, const py::object& offsets,
                        const py::object& out) const {
        Tensor rows(x), bounds(offsets), result(out);
        Array from = rows.array(2), to = result.array(2);
        same(from.shape[1] == w.weights.length && to.shape[1] == w.weights.rows &&
                 to.shape[0] == from.shape[0] && to.type == from.type,
             "rows and columns");
        const int32_t* starts = bounds.integers(w.weights.count + 1);
        freed([&] { fast::grouped_linear(run(threads), from, w.weights, starts, to); });
    }

    void head_linear(int threads, const py::object& x, const Packed& w, const py::object& out) const {
        Tensor rows(x), result(out);
        Array from = rows.array(3), to = result.array(3);
        same(from.shape[2] == w.weights.length && to.shape[2] == w.weights.rows &&
                 to.shape[0] == from.shape[0] && to.shape[1] == from.shape[1] &&
                 w.weights.count == from.shape[1] && to.type == from.type,
             "heads");
        freed([&] { fast::head_linear(run(threads), from, w.weights, to); });
    }

    void experts(int threads, const py::object& x, const py::object& ids, const py::object& by,
                 const Packed& gate_up, const Packed& down, const Maybe& shared,
                 const py::object& out) const {
        Tensor rows(x), chosen(ids), weights(by), result(out);
        std::optional<Tensor> other;
        if (shared) other.emplace(*shared);
        Array from = rows.array(2), to = result.array(2);
        std::optional<Array> added;
        if (other) added = other->array(2);
        int64_t tokens = from.shape[0], k = chosen.dims() == 2 ? chosen.shape(1) : 0;
        const Weights &first = gate_up.weights, &second = down.weights;
        same(from.shape[1] == first.length && first.rows == 2 * second.length &&
                 first.count == second.count && to.shape[0] == tokens &&
                 to.shape[1] == second.rows && to.type == from.type &&
                 to.stride[0] == (tokens > 1 ? to.shape[1] : to.stride[0]),
             "experts");
        same(!added || (added->shape[0] == tokens && added->shape[1] == to.shape[1] &&
                        added->type == to.type),
             "shared rows");
        const int32_t* places = chosen.integers(tokens * k);
        const float* factors = weights.floats(tokens * k);
        freed([&] {
            fast::experts(run(threads), from, places, factors, k, first, second,
                          added ? &*added : nullptr, to);
        });
    }

    void rms_norm(int threads, const py::object& x, const Maybe& residual, const py::object& w,
                  float eps, const Maybe& h, const py::object& y) const {
        Tensor rows(x), weight(w), result(y);
        Array from = rows.array(2), to = result.array(2);
        int64_t count = from.shape[0], width = from.shape[1];
        same(to.shape[0] == count && to.shape[1] == width && to.type == from.type, "rows");
        same(residual.has_value() == h.has_value(), "residual");
        Norm norm{from.data, nullptr, weight.floats(width), nullptr, nullptr,
                  const_cast<void*>(to.data), from.type, from.stride[0], 0, width, eps};
        std::optional<Tensor> other, sum;
        if (residual) {
            other.emplace(*residual), sum.emplace(*h);
            Array added = other->array(2), total = sum->array(2);
            same(added.shape[0] == count && added.shape[1] == width && added.type == from.type &&
                     total.shape[0] == count && total.shape[1] == width && total.type == from.type,
                 "residual");
            norm.residual = added.data, norm.residual_stride = added.stride[0];
            norm.h = const_cast<void*>(total.data);
        }
        each_row(threads, count, count * width, [&](int64_t row) { kernels.rms_norm(norm, row); });
    }

    void layer_norm(int threads, const py::object& x, const py::object& w, const py::object& b,
                    float eps, const py::object& y) const {
        Tensor rows(x), weight(w), bias(b), result(y);
        Array from = rows.array(2), to = result.array(2);
        int64_t count = from.shape[0], width = from.shape[1];
        same(to.shape[0] == count && to.shape[1] == width && to.type == from.type, "rows");
        Norm norm{from.data, nullptr, weight.floats(width), bias.floats(width), nullptr,
                  const_cast<void*>(to.data), from.type, from.stride[0], 0, width, eps};
        each_row(threads, count, count * width, [&](int64_t row) { kernels.layer_norm(norm, row); });
    }

    // The first R of the table's columns a head; what stands behind them in a head is copied.
    void rope(int threads, const py::object& x, const py::object& positions, const py::object& table,
              bool interleaved, const py::object& out) const {
        Tensor rows(x), places(positions), angles(table), result(out);
        Array from = rows.array(3), to = result.array(3), turns = angles.array(2);
        int64_t tokens = from.shape[0], width = from.shape[2];
        same(rows.size() == result.size() && to.type == from.type && turns.shape[1] == width &&
                 width % 2 == 0,
             "rows and table");
        const float* cosines = angles.floats(turns.shape[0] * width);
        const int32_t* at = places.integers(tokens);
        for (int64_t t = 0; t < tokens; ++t)
            if (at[t] < 0 || at[t] >= turns.shape[0])
                throw py::index_error("position " + std::to_string(at[t]) + " is outside of the " +
                                      std::to_string(turns.shape[0]) + " of the table");
        each_row(threads, tokens, tokens * from.shape[1] * width, [&](int64_t token) {
            // the kernel counts everything from its first token on
            Rope one{from.at(token), cosines + at[token] * width, const_cast<char*>(to.at(token)),
                     from.type, from.shape[1], width, 0, from.stride[1], interleaved};
            kernels.rope(one, 0);
        });
    }

    void swiglu(int threads, const py::object& x, const py::object& out) const {
        Tensor rows(x), result(out);
        Array from = rows.array(2), to = result.array(2);
        same(from.shape[0] == to.shape[0] && from.shape[1] == 2 * to.shape[1] && to.type == from.type,
             "rows");
        Swiglu args{from.data, const_cast<void*>(to.data), from.type, to.shape[1], from.stride[0]};
        each_row(threads, from.shape[0], rows.size(),
                 [&](int64_t row) { kernels.swiglu(args, row); });
    }

    void combine(int threads, const py::object& rows, const py::object& places, const py::object& by,
                 const Maybe& shared, const py::object& out) const {
        Tensor held(rows), where(places), weights(by), result(out);
        std::optional<Tensor> other;
        if (shared) other.emplace(*shared);
        Array from = held.array(2), to = result.array(2), added = other ? other->array(2) : to;
        int64_t tokens = to.shape[0], k = where.dims() == 2 ? where.shape(1) : 0;
        same(from.shape[1] == to.shape[1] && added.shape[0] == tokens &&
                 added.shape[1] == to.shape[1] && to.type == from.type && added.type == from.type,
             "rows");
        const int32_t* place = where.integers(tokens * k);
        for (int64_t i = 0; i < tokens * k; ++i)
            if (place[i] < 0 || place[i] >= from.shape[0])
                throw py::index_error("a slot outside of the rows");
        Combine args{from.data, place, weights.floats(tokens * k), other ? added.data : nullptr,
                     const_cast<void*>(to.data), from.type, k, from.shape[1], from.stride[0],
                     added.stride[0]};
        each_row(threads, tokens, tokens * k * to.shape[1],
                 [&](int64_t token) { kernels.combine(args, token); });
    }

    void route(int threads, const py::object& logits, const py::object& bias, int64_t groups,
               int64_t kept_groups, bool normalize, float scale, const py::object& ids,
               const py::object& by) const {
        Tensor scores(logits), offsets(bias), chosen(ids), weights(by);
        same(chosen.dims() == 2, "ids");
        int64_t tokens = chosen.shape(0), k = chosen.shape(1), experts = offsets.size();
        same(k <= experts && groups >= 1 && experts % groups == 0 && kept_groups <= groups &&
                 (groups == 1 || experts >= 2 * groups),
             "experts and groups");
        Route args{scores.floats(tokens * experts), offsets.floats(experts),
                   const_cast<int32_t*>(chosen.integers(tokens * k)),
                   const_cast<float*>(weights.floats(tokens * k)), experts, k, groups, kept_groups,
                   normalize, scale};
        freed([&] { fast::route(run(tokens * experts < SMALL ? 1 : threads), args, tokens); });
    }

    void cache_write(const py::object& cache, const py::object& rows, const py::object& slots) const {
        Tensor store(cache), values(rows), places(slots);
        Array to = store.array(2), from = values.array(2);
        same(from.shape[1] == to.shape[1] && from.type == to.type, "rows");
        const int32_t* at = places.integers(from.shape[0]);
        for (int64_t t = 0; t < from.shape[0]; ++t)
            if (at[t] < 0 || at[t] >= to.shape[0])
                throw py::index_error("slot " + std::to_string(at[t]) + " is outside of the cache's " +
                                      std::to_string(to.shape[0]));
        for (int64_t t = 0; t < from.shape[0]; ++t)
            __builtin_memcpy(const_cast<char*>(to.at(at[t])), from.at(t),
                             from.shape[1] * size_of(from.type));
    }

    void index_scores(int threads, const py::object& q, const py::object& w, float scale,
                      const py::object& keys, int64_t page_size, const py::object& table,
                      const py::object& sequence, const py::object& lengths,
                      const py::object& out) const {
        Tensor query(q), weights(w), held(keys), pages(table), owner(sequence), visible(lengths);
        Tensor result(out);
        Array from = query.array(3);
        Paged paged = paged_of(held, page_size, pages, owner, visible);
        int64_t width = result.dims() == 2 ? result.shape(1) : 0;
        same(from.shape[0] == paged.tokens && from.shape[2] == paged.cache.shape[1], "keys");
        for (int64_t t = 0; t < paged.tokens; ++t) same(paged.lengths[t] <= width, "lengths");
        const float* by = weights.floats(paged.tokens * from.shape[1]);
        float* to = const_cast<float*>(result.floats(paged.tokens * width));
        freed([&] { fast::index_scores(run(threads), from, by, scale, paged, to, width); });
    }

    void dsa_select(int threads, const py::object& q, const py::object& w, float scale,
                    const py::object& keys, int64_t page_size, const py::object& table,
                    const py::object& sequence, const py::object& lengths,
                    const py::object& out) const {
        Tensor query(q), weights(w), held(keys), pages(table), owner(sequence), visible(lengths);
        Tensor result(out);
        Array from = query.array(3);
        Paged paged = paged_of(held, page_size, pages, owner, visible);
        same(from.shape[0] == paged.tokens && from.shape[2] == paged.cache.shape[1] &&
                 result.dims() == 2,
             "keys");
        int64_t k = result.shape(1);
        const float* by = weights.floats(paged.tokens * from.shape[1]);
        int32_t* to = const_cast<int32_t*>(result.integers(paged.tokens * k));
        freed([&] { fast::dsa_select(run(threads), from, by, scale, paged, k, to); });
    }

    void topk(int threads, const py::object& scores, const py::object& lengths,
              const py::object& out) const {
        Tensor rows(scores), counts(lengths), result(out);
        Array from = rows.array(2);
        same(result.dims() == 2 && from.type == Type::f32, "scores");
        int64_t k = result.shape(1);
        int32_t* to = const_cast<int32_t*>(result.integers(from.shape[0] * k));
        const int32_t* visible = counts.integers(from.shape[0]);
        for (int64_t t = 0; t < from.shape[0]; ++t)
            same(visible[t] >= 0 && visible[t] <= from.shape[1], "lengths");
        freed([&] { fast::topk(run(threads), from, visible, k, to); });
    }

    void attention(int threads, const py::object& q_latent, const py::object& q_rope,
                   const py::object& cache, int64_t page_size, const py::object& table,
                   const py::object& sequence, const py::object& lengths, float scale,
                   const Maybe& indices, const py::object& out) const {
        Tensor content(q_latent), position(q_rope), held(cache), pages(table), owner(sequence);
        Tensor visible(lengths), result(out);
        std::optional<Tensor> list;
        if (indices) list.emplace(*indices);
        Array latent = content.array(3), turned = position.array(3), to = result.array(3);
        Paged from = paged_of(held, page_size, pages, owner, visible);
        int64_t tokens = from.tokens, k = list && list->dims() == 2 ? list->shape(1) : 0;
        same(latent.shape[0] == tokens && turned.shape[0] == tokens &&
                 latent.shape[1] == turned.shape[1] && to.shape[0] == tokens &&
                 to.shape[1] == latent.shape[1] && to.shape[2] == latent.shape[2] &&
                 latent.shape[2] + turned.shape[2] == from.cache.shape[1] &&
                 latent.type == turned.type && latent.type == from.cache.type &&
                 latent.type == to.type,
             "queries and rows");
        const int32_t* chosen = list ? list->integers(tokens * k) : nullptr;
        freed([&] { fast::attention(run(threads), latent, turned, from, scale, chosen, k, to); });
    }

   private:
    static constexpr int64_t SMALL = 1 << 15;  // elements that are not worth waking a thread for

    static Paged paged_of(const Tensor& cache, int64_t page_size, const Tensor& table,
                          const Tensor& sequence, const Tensor& lengths) {
        same(table.dims() == 2 && page_size > 0, "page table");
        Array rows = cache.array(2);
        same(rows.shape[0] % page_size == 0, "whole pages");
        int64_t tokens = sequence.size();
        return {rows, page_size, table.integers(table.size()), table.shape(0), table.shape(1),
                sequence.integers(tokens), lengths.integers(tokens), tokens};
    }

    template <class F>
    void each_row(int threads, int64_t rows, int64_t elements, const F& f) const {
        constexpr int64_t TOGETHER = 16;
        freed([&] {
            each(elements < SMALL ? 1 : threads, ceil_div(rows, TOGETHER), [&](int64_t at, int) {
                for (int64_t row = at * TOGETHER; row < rows && row < (at + 1) * TOGETHER; ++row) f(row);
            });
        });
    }
};

}  // namespace

PYBIND11_MODULE(_fast, m) {
    m.doc() = "Kernels of the fast profile.";
    describe(m, modes());
    py::class_<Packed>(m, "Packed").def(py::init<py::object, int64_t, int64_t, int64_t, bool>());
    py::class_<Mill>(m, "Mill")
        .def(py::init<const std::string&>())
        .def("pack", &Mill::pack)
        .def("linear", &Mill::linear)
        .def("grouped_linear", &Mill::grouped_linear)
        .def("head_linear", &Mill::head_linear)
        .def("experts", &Mill::experts)
        .def("rms_norm", &Mill::rms_norm)
        .def("layer_norm", &Mill::layer_norm)
        .def("rope", &Mill::rope)
        .def("swiglu", &Mill::swiglu)
        .def("combine", &Mill::combine)
        .def("route", &Mill::route)
        .def("cache_write", &Mill::cache_write)
        .def("index_scores", &Mill::index_scores)
        .def("dsa_select", &Mill::dsa_select)
        .def("topk", &Mill::topk)
        .def("attention", &Mill::attention);
}
