#include "ops.h"

#include <algorithm>
#include <stdexcept>
#include <vector>

#include "buffer.h"
#include "pool.h"

namespace exact {
namespace {

// Rows of activations as panels.
struct Panels {
    Buffer<int8_t> digits;
    Buffer<double> units;
    Buffer<int64_t> totals;
    int64_t steps = 0;

    void need(int64_t panels, int64_t length) {
        steps = ceil_div(length, DEPTH);
        digits.need(panels * steps * X_DIGITS * PLANE);
        units.need(panels * ROWS);
        totals.need(panels * ROWS);
    }
    Panel at(int64_t panel) {
        return {digits.need(0) + panel * steps * X_DIGITS * PLANE, units.need(0) + panel * ROWS,
                totals.need(0) + panel * ROWS};
    }
};

// Rows that share a matrix.
struct Group {
    const char* x;
    int64_t rows, x_stride;  // the stride in bytes
    int64_t matrix;
    char* out;
};

struct Piece {
    int64_t group, panel, panels, block, blocks;
};

// Panels of activations that stay in the second-level cache while blocks of weights pass.
constexpr int64_t RESIDENT = 1200 << 10;

void multiply(Run run, const std::vector<Group>& groups, Type type, const Weights& w,
              const int64_t* exponents, Type out_type, int64_t out_stride) {
    static thread_local Panels own_panels;
    Panels& panels = own_panels;  // the caller's, on every thread
    int64_t steps = ceil_div(w.length, DEPTH), blocks = ceil_div(w.rows, ROWS);
    std::vector<int64_t> firsts, owners;  // first panel of each group, group of each panel
    for (size_t g = 0; g < groups.size(); ++g) {
        firsts.push_back(static_cast<int64_t>(owners.size()));
        owners.insert(owners.end(), ceil_div(groups[g].rows, ROWS), static_cast<int64_t>(g));
    }
    int64_t count = static_cast<int64_t>(owners.size());
    panels.need(count, w.length);
    each(run.threads, count, [&](int64_t at, int) {
        const Group& group = groups[owners[at]];
        int64_t row = (at - firsts[owners[at]]) * ROWS;
        Source source{{}, 0, type, w.length, exponents ? exponents + row : nullptr};
        source.count = static_cast<int>(std::min<int64_t>(ROWS, group.rows - row));
        for (int r = 0; r < source.count; ++r)
            source.rows[r] = group.x + (row + r) * group.x_stride;
        run.kernels.cut(source, panels.at(at));
    });
    int64_t tall = std::clamp<int64_t>(RESIDENT / std::max<int64_t>(steps * X_DIGITS * PLANE, 1), 1, 64);
    int64_t broad = count * blocks >= 16 * run.threads || blocks >= 8 * run.threads ? 4 : 1;
    std::vector<Piece> pieces;
    for (size_t g = 0; g < groups.size(); ++g)
        for (int64_t own = ceil_div(groups[g].rows, ROWS), panel = 0; panel < own; panel += tall)
            for (int64_t block = 0; block < blocks; block += broad)
                pieces.push_back({static_cast<int64_t>(g), panel, std::min(panel + tall, own), block,
                                  std::min(block + broad, blocks)});
    each(run.threads, static_cast<int64_t>(pieces.size()), [&](int64_t at, int) {
        const Piece& piece = pieces[at];
        const Group& group = groups[piece.group];
        Panel first = panels.at(firsts[piece.group]);
        Product product{first.digits,
                        first.units,
                        first.totals,
                        group.rows,
                        w.blocks + group.matrix * blocks * steps * w.digits * PLANE,
                        w.units + group.matrix * blocks * ROWS,
                        w.rows,
                        steps,
                        w.digits,
                        group.out,
                        out_type,
                        out_stride};
        run.kernels.product(product, piece.panel, piece.panels, piece.block, piece.blocks);
    });
    panels.digits.trim();
}

}  // namespace

void pack_weights(Run run, const Array& w, int digits, const int64_t* exponents, uint8_t* blocks,
                  double* units) {
    int64_t per = ceil_div(w.shape[1], ROWS), size = ceil_div(w.shape[2], DEPTH) * digits * PLANE;
    each(run.threads, w.shape[0] * per, [&](int64_t at, int) {
        int64_t matrix = at / per, row = at % per * ROWS;
        Source source{{}, 0, w.type, w.shape[2], nullptr};
        if (exponents) source.exponents = exponents + matrix * w.shape[1] + row;
        source.count = static_cast<int>(std::min<int64_t>(ROWS, w.shape[1] - row));
        for (int r = 0; r < source.count; ++r) source.rows[r] = w.at(matrix, row + r);
        run.kernels.pack(source, digits, {blocks + at * size, units + at * ROWS});
    });
}

void linear(Run run, const Array& x, const Weights& w, const int64_t* exponents, const Array& out) {
    int64_t step = x.stride[0] * size_of(x.type);
    Group group{x.at(0), x.shape[0], step, 0, const_cast<char*>(out.at(0))};
    multiply(run, {group}, x.type, w, exponents, out.type, out.stride[0]);
}

void grouped_linear(Run run, const Array& x, const Weights& w, const int32_t* offsets,
                    const Array& out) {
    std::vector<Group> groups;
    for (int64_t e = 0; e < w.count; ++e) {
        if (offsets[e] < 0 || offsets[e + 1] > x.shape[0])
            throw std::out_of_range("offsets outside of the rows");
        if (offsets[e] < offsets[e + 1])
            groups.push_back({x.at(offsets[e]), offsets[e + 1] - offsets[e],
                              x.stride[0] * size_of(x.type), e,
                              const_cast<char*>(out.at(offsets[e]))});
    }
    multiply(run, groups, x.type, w, nullptr, out.type, out.stride[0]);
}

void head_linear(Run run, const Array& x, const Weights& w, const Array& out) {
    std::vector<Group> groups;
    for (int64_t h = 0; h < w.count; ++h)
        groups.push_back({x.at(0, h), x.shape[0], x.stride[0] * size_of(x.type), h,
                          const_cast<char*>(out.at(0, h))});
    multiply(run, groups, x.type, w, nullptr, out.type, out.stride[0]);
}

// --- selection ---

namespace {

constexpr int64_t TOGETHER = 16;  // tokens whose scores exist at a time

// Packs the keys of each sequence once; calls f(first token, args) for up to 16 of its tokens,
// with everything in `args` but where scores go.
template <class F>
void each_scored(Run run, const Array& q, const float* weights, const Paged& keys, int64_t skipped,
                 const F& f) {
    int64_t heads = q.shape[1], width = q.shape[2], per = ceil_div(heads, ROWS);
    int64_t steps = ceil_div(width, DEPTH);
    int digits = keys.cache.type == Type::bf16 ? 2 : 3;
    Buffer<uint8_t> blocks;
    Buffer<double> units;
    Panels panels;
    for (int64_t start = 0, stop; start < keys.tokens; start = stop) {
        int64_t longest = 0;
        for (stop = start; stop < keys.tokens && keys.sequence[stop] == keys.sequence[start]; ++stop)
            longest = std::max<int64_t>(longest, keys.lengths[stop]);
        std::vector<const void*> rows;
        for (int64_t position = 0; position < longest && longest > skipped; ++position)
            rows.push_back(keys.row(start, position));
        int64_t count = static_cast<int64_t>(rows.size()), own = ceil_div(count, ROWS);
        int64_t size = steps * digits * PLANE;
        blocks.need(own * size);
        units.need(own * ROWS);
        each(run.threads, own, [&](int64_t at, int) {
            Source source{{}, 0, keys.cache.type, width, nullptr};
            source.count = static_cast<int>(std::min<int64_t>(ROWS, count - at * ROWS));
            std::copy_n(rows.data() + at * ROWS, source.count, source.rows);
            run.kernels.pack(source, digits, {blocks.need(0) + at * size, units.need(0) + at * ROWS});
        });
        for (int64_t token = start; token < stop; token += TOGETHER) {
            int64_t tokens = std::min(TOGETHER, stop - token);
            panels.need(tokens * per, width);
            each(run.threads, own ? tokens * per : 0, [&](int64_t at, int) {
                int64_t head = at % per * ROWS;
                Source source{{}, 0, q.type, width, nullptr};
                source.count = static_cast<int>(std::min<int64_t>(ROWS, heads - head));
                for (int r = 0; r < source.count; ++r)
                    source.rows[r] = q.at(token + at / per, head + r);
                run.kernels.cut(source, panels.at(at));
            });
            Panel first = panels.at(0);
            f(token, own,
              Index{first.digits, first.units, first.totals, weights + token * heads, tokens, heads,
                    steps, digits, blocks.need(0), units.need(0), keys.lengths + token, nullptr, 0});
        }
    }
}

void score(Run run, const Index& index, int64_t blocks) {
    constexpr int64_t BROAD = 4;
    each(run.threads, ceil_div(blocks, BROAD), [&](int64_t at, int) {
        run.kernels.index_scores(index, at * BROAD, std::min((at + 1) * BROAD, blocks));
    });
}

}  // namespace

void index_scores(Run run, const Array& q, const float* weights, const Paged& keys, float* out,
                  int64_t stride) {
    each_scored(run, q, weights, keys, 0, [&](int64_t token, int64_t blocks, Index index) {
        index.scores = out + token * stride;
        index.stride = stride;
        score(run, index, blocks);
    });
}

void dsa_select(Run run, const Array& q, const float* weights, const Paged& keys, int64_t k,
                int32_t* out) {
    Buffer<float> scores;
    Buffer<uint32_t> scratch;
    each_scored(run, q, weights, keys, k, [&](int64_t token, int64_t blocks, Index index) {
        index.stride = blocks * ROWS;
        index.scores = scores.need(index.tokens * index.stride);
        scratch.need(run.threads * index.stride);
        score(run, index, blocks);
        each(run.threads, index.tokens, [&](int64_t at, int worker) {
            run.kernels.topk(index.scores + at * index.stride, index.lengths[at], k,
                             out + (token + at) * k, scratch.need(0) + worker * index.stride);
        });
    });
}

void topk(Run run, const Array& scores, const int32_t* lengths, int64_t k, int32_t* out) {
    Buffer<uint32_t> scratch;
    scratch.need(run.threads * scores.shape[1]);
    each(run.threads, scores.shape[0], [&](int64_t at, int worker) {
        run.kernels.topk(reinterpret_cast<const float*>(scores.at(at)), lengths[at], k, out + at * k,
                         scratch.need(0) + worker * scores.shape[1]);
    });
}

// --- attention ---

namespace {

constexpr int64_t CHUNK = 4096;             // cached rows whose digits exist at a time
constexpr int64_t MOST_SCORES = 16 << 20;   // of the tokens that share their rows

// What one group of tokens needs; reused by the next.
struct Work {
    Panels latent, turned;
    Buffer<uint8_t> keys, turned_keys, values;
    Buffer<double> key_units, turned_key_units;
    Buffer<int32_t> exponents, tops;
    Buffer<int64_t> visible, masses, weight_totals, sums;
    Buffer<float> scores;
    Buffer<int8_t> weights, scratch;
    std::vector<const void*> rows;
    std::vector<void*> out;
};

// Tokens [start, stop) that see the first rows of one list.
struct Shared {
    int64_t start, stop, longest;
};

void attend(Run run, Work& work, const Shared& group, const Array& q_latent, const Array& q_rope,
            const Paged& cache, float factor, const int32_t* indices, int64_t k, const Array& out) {
    const Kernels& kernels = run.kernels;
    int64_t heads = q_latent.shape[1], rows = (group.stop - group.start) * heads;
    int64_t panels = ceil_div(rows, ROWS), latent = q_latent.shape[2], turned = q_rope.shape[2];
    int64_t columns = ceil_div(latent, ROWS), padded = ceil_div(group.longest, DEPTH) * DEPTH;
    int64_t chunk = std::min(padded, CHUNK);
    Attention args{};
    args.rows = rows, args.width = latent, args.factor = factor;
    args.type = q_latent.type, args.digits = cache.cache.type == Type::bf16 ? 2 : 3;
    args.latent_steps = ceil_div(latent, DEPTH), args.turned_steps = ceil_div(turned, DEPTH);
    args.stride = padded;
    args.keys = work.keys.need(chunk / ROWS * args.latent_steps * args.digits * PLANE);
    args.turned_keys = work.turned_keys.need(chunk / ROWS * args.turned_steps * args.digits * PLANE);
    args.values = work.values.need(columns * chunk / DEPTH * args.digits * PLANE);
    args.key_units = work.key_units.need(chunk);
    args.turned_key_units = work.turned_key_units.need(chunk);
    args.exponents = work.exponents.need(padded);
    args.scores = work.scores.need(rows * padded);
    args.tops = work.tops.need(2 * rows);
    args.masses = work.masses.need(rows);
    args.weights = work.weights.need(panels * chunk / DEPTH * X_DIGITS * PLANE);
    args.weight_totals = work.weight_totals.need(panels * ROWS);
    args.sums = work.sums.need(rows * columns * ROWS);
    int64_t* visible = work.visible.need(rows);
    work.out.resize(rows);
    for (int64_t row = 0; row < rows; ++row) {
        int64_t token = group.start + row / heads;
        visible[row] = indices ? group.longest : cache.lengths[token];
        work.out[row] = const_cast<char*>(out.at(token, row % heads));
    }
    args.visible = visible;
    args.out = work.out.data();

    work.rows.assign(padded, nullptr);
    for (int64_t s = 0; s < group.longest; ++s)
        work.rows[s] = cache.row(group.start, indices ? indices[group.start * k + s] : s);

    auto cut = [&](const Array& q, Panels& to) {
        to.need(panels, q.shape[2]);
        each(run.threads, panels, [&](int64_t panel, int) {
            Source source{{}, 0, q.type, q.shape[2], nullptr};
            source.count = static_cast<int>(std::min<int64_t>(ROWS, rows - panel * ROWS));
            for (int r = 0; r < source.count; ++r) {
                int64_t row = panel * ROWS + r;
                source.rows[r] = q.at(group.start + row / heads, row % heads);
            }
            kernels.cut(source, to.at(panel));
        });
        return to.at(0);
    };
    Panel content = cut(q_latent, work.latent), position = cut(q_rope, work.turned);
    args.latent = content.digits, args.latent_units = content.units;
    args.latent_totals = content.totals;
    args.turned = position.digits, args.turned_units = position.units;
    args.turned_totals = position.totals;

    int64_t line = args.latent_steps * DEPTH * DEPTH * args.digits;
    int8_t* scratch = work.scratch.need(run.threads * line);
    auto take_in = [&](bool for_scores, bool for_values) {
        each(run.threads, ceil_div(args.count, DEPTH), [&](int64_t place, int worker) {
            kernels.take_in(args, {work.rows.data() + args.first + place * DEPTH, cache.cache.type,
                                   latent, turned, for_scores, for_values, place,
                                   scratch + worker * line});
        });
    };
    auto spread = [&](int64_t blocks, auto kernel) {
        constexpr int64_t BROAD = 4;
        each(run.threads, ceil_div(blocks, BROAD), [&](int64_t at, int) {
            kernel(args, at * BROAD, std::min((at + 1) * BROAD, blocks));
        });
    };
    bool once = padded <= CHUNK;
    for (args.first = 0; args.first < padded; args.first += CHUNK) {
        args.count = std::min(CHUNK, padded - args.first);
        take_in(true, once);
        spread(args.count / ROWS, kernels.attention_scores);
    }
    each(run.threads, rows, [&](int64_t row, int) { kernels.attention_tops(args, row); });
    for (args.first = 0; args.first < padded; args.first += CHUNK) {
        args.count = std::min(CHUNK, padded - args.first);
        if (!once) take_in(false, true);
        each(run.threads, panels, [&](int64_t at, int) { kernels.attention_weights(args, at); });
        spread(columns, kernels.attention_values);
    }
    each(run.threads, rows, [&](int64_t row, int) { kernels.attention_result(args, row); });
}

}  // namespace

void attention(Run run, const Array& q_latent, const Array& q_rope, const Paged& cache,
               float factor, const int32_t* indices, int64_t k, const Array& out) {
    std::vector<Shared> groups;
    int64_t heads = std::max<int64_t>(q_latent.shape[1], 1);
    for (int64_t token = 0; token < cache.tokens; ++token) {
        if (indices) {
            const int32_t* own = indices + token * k;
            int64_t count = std::find_if(own, own + k, [](int32_t i) { return i < 0; }) - own;
            groups.push_back({token, token + 1, count});
            continue;
        }
        int64_t length = std::max(cache.lengths[token], 0);
        if (!groups.empty() && cache.sequence[groups.back().start] == cache.sequence[token]) {
            Shared& last = groups.back();
            int64_t longest = std::max(last.longest, length), tokens = token + 1 - last.start;
            if (tokens <= TOGETHER && tokens * heads * longest <= MOST_SCORES) {
                last.longest = longest, last.stop = token + 1;
                continue;
            }
        }
        groups.push_back({token, token + 1, length});
    }
    int64_t count = static_cast<int64_t>(groups.size());
    bool apart = count >= 2 * run.threads;  // a group a thread, else all threads on each group
    std::vector<Work> work(apart ? run.threads : 1);
    each(apart ? run.threads : 1, count, [&](int64_t at, int worker) {
        attend({run.kernels, apart ? 1 : run.threads}, work[worker], groups[at], q_latent, q_rope,
               cache, factor, indices, k, out);
    });
}

// --- rows ---

void route(Run run, const Route& args, int64_t tokens) {
    Buffer<float> scratch;
    scratch.need(run.threads * 4 * args.experts);
    each(run.threads, tokens, [&](int64_t token, int worker) {
        run.kernels.route(args, token, scratch.need(0) + worker * 4 * args.experts);
    });
}

void sample(Run run, const Array& logits, const float* temperature, const int64_t* limits,
            const int32_t* draws, int32_t* out) {
    Buffer<uint32_t> scratch;
    int64_t width = logits.shape[1];
    scratch.need(run.threads * 4 * width);
    each(run.threads, logits.shape[0], [&](int64_t row, int worker) {
        Draw draw{reinterpret_cast<const float*>(logits.at(row)), width, temperature[row],
                  limits[row], draws[row], scratch.need(0) + worker * 4 * width};
        out[row] = limits[row] < 0 ? run.kernels.greedy(draw) : run.kernels.draw(draw);
    });
}

}  // namespace exact
