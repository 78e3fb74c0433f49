// Attention over paged rows in splits of SPLIT, with a running softmax. What is split, and so every
// bit, depends on a token's own list of rows alone:
//
//   dense  a list that holds a good part of the rows up to its last one is split by position; rows
//          that the token does not see weigh nothing. Neighbours in a sequence then share the work.
//   else   it is split by place in the list, whose rows are collected for this token alone.
#include <algorithm>
#include <memory>

#include "../buffer.h"
#include "../pool.h"
#include "ops.h"

namespace fast {
namespace {

constexpr int64_t MOST_QUERIES = 256;  // query rows that share rows of the cache

// The rows that a token sees.
struct List {
    const int32_t* chosen;  // or null: the first `count`
    int64_t count, span;    // span: what the positions are below
    bool dense;

    // Calls f(position) for those in [first, last) in order, from `next` on, which it moves.
    template <class F>
    void each_in(int64_t first, int64_t last, int64_t& next, const F& f) const {
        if (!chosen) {
            for (next = std::max(next, first); next < std::min(last, count); ++next) f(next);
        } else if (dense) {
            for (; next < count && chosen[next] < last; ++next) f(chosen[next]);
        } else {
            for (next = first; next < std::min(last, count); ++next) f(next);
        }
    }
};

List list_of(const Paged& cache, int64_t token, const int32_t* indices, int64_t k, int64_t heads) {
    if (!indices) {
        int64_t length = std::max(cache.lengths[token], 0);
        return {nullptr, length, length, true};
    }
    const int32_t* own = indices + token * k;
    int64_t count = 0;
    bool ascending = true;
    for (; count < k && own[count] >= 0; ++count)
        ascending &= count == 0 || own[count] > own[count - 1];
    int64_t span = count ? own[count - 1] + 1 : 0;
    // a token alone with few heads leaves most of a tile empty
    int64_t worth = heads <= 8 ? 4 : 2;
    return {own, count, span, ascending && count * worth >= span};
}

// Tokens [start, stop) of one sequence that are attended to together.
struct Group {
    int64_t start, stop;
    bool dense;
    int64_t length;  // positions, or places in the list
};

std::vector<Group> groups_of(const Paged& cache, const std::vector<List>& lists, int64_t heads) {
    std::vector<Group> groups;
    for (int64_t token = 0; token < cache.tokens; ++token) {
        const List& own = lists[token];
        int64_t length = own.dense ? own.span : own.count;
        if (!groups.empty()) {
            Group& last = groups.back();
            bool fits = (token + 1 - last.start) * heads <= MOST_QUERIES;
            bool akin = cache.sequence[token] == cache.sequence[last.start];
            if (fits && akin && own.dense && last.dense) {
                last.stop = token + 1, last.length = std::max(last.length, length);
                continue;
            }
        }
        groups.push_back({token, token + 1, own.dense, length});
    }
    return groups;
}

// What one worker needs for a split.
struct Scratch {
    Buffer<char> keys, values, weights;
    Buffer<float> scores;
    Buffer<uint16_t> seen, own;
    std::vector<const void*> rows, alone;
};

// What one group needs.
struct Work {
    Buffer<char> queries;
    Buffer<float> top, mass, sums;
    std::vector<int64_t> next;  // of each token, for splits in order
};

struct Call {
    Run run;
    const Array &q_latent, &q_rope;
    const Paged& cache;
    const Array& out;
    const std::vector<List>& lists;
    float factor;
    int64_t heads, latent, turned;

    Type type() const { return q_latent.type; }
    int64_t blocks() const { return ceil_div(latent, ROWS); }
    int64_t steps() const { return ceil_div(latent, DEPTH) + ceil_div(turned, DEPTH); }
};

class Attender {
   public:
    Attender(const Call& call, const Group& group, Work& work) : c_(call), g_(group), work_(work) {
        rows_ = (group.stop - group.start) * call.heads;
        tiles_ = ceil_div(rows_, ROWS);
        pack_queries();
    }

    int64_t splits() const { return ceil_div(g_.length, SPLIT); }

    Running running(Buffer<float>& top, Buffer<float>& mass, Buffer<float>& sums, int64_t splits) const {
        return {top.need(splits * tiles_ * ROWS), mass.need(splits * tiles_ * ROWS),
                sums.need(splits * tiles_ * c_.blocks() * TILE)};
    }

    // Split after split on this thread.
    void in_order(Scratch& scratch) {
        Running running = begin();
        work_.next.assign(g_.stop - g_.start, 0);
        for (int64_t split = 0; split < splits(); ++split)
            one(split, scratch, false, running, work_.next);
        finish(running);
    }

    // Splits on all threads, then merged in order.
    void spread(std::vector<std::unique_ptr<Scratch>>& scratch) {
        static thread_local Buffer<float> top, mass, sums;
        static thread_local Buffer<uint16_t> own_lanes;
        Running parts = running(top, mass, sums, splits());
        uint16_t* own = own_lanes.need(splits() * tiles_);
        each(c_.run.threads, splits(), [&](int64_t split, int worker) {
            std::vector<int64_t> next(g_.stop - g_.start, 0);
            skip(split * SPLIT, next);
            one(split, *scratch[worker], true, part(parts, split), next);
            std::copy_n(scratch[worker]->own.need(0), tiles_, own + split * tiles_);
        });
        Running total = begin();
        Attention args = arguments(*scratch[0]);
        for (int64_t split = 0; split < splits(); ++split)
            c_.run.kernels.merge(args, own + split * tiles_, part(parts, split), total);
        finish(total);
    }

   private:
    Running part(const Running& parts, int64_t split) const {
        return {parts.top + split * tiles_ * ROWS, parts.mass + split * tiles_ * ROWS,
                parts.sums + split * tiles_ * c_.blocks() * TILE};
    }

    Running begin() {
        Running made = running(work_.top, work_.mass, work_.sums, 1);
        std::fill_n(made.top, tiles_ * ROWS, -__builtin_inff());
        std::fill_n(made.mass, tiles_ * ROWS, 0.0f);
        std::fill_n(made.sums, tiles_ * c_.blocks() * TILE, 0.0f);
        return made;
    }

    void pack_queries() {
        int64_t element = size_of(c_.type()), size = c_.steps() * PLANE * element;
        int64_t content = ceil_div(c_.latent, DEPTH) * PLANE * element;
        char* blocks = work_.queries.need(tiles_ * size);
        for (int64_t tile = 0; tile < tiles_; ++tile) {
            Source latent{{}, c_.type(), c_.latent}, turned{{}, c_.type(), c_.turned};
            for (int64_t r = 0; r < ROWS && tile * ROWS + r < rows_; ++r) {
                int64_t token = g_.start + (tile * ROWS + r) / c_.heads, head = (tile * ROWS + r) % c_.heads;
                latent.rows[r] = c_.q_latent.at(token, head);
                turned.rows[r] = c_.q_rope.at(token, head);
            }
            c_.run.kernels.pack(latent, blocks + tile * size);
            c_.run.kernels.pack(turned, blocks + tile * size + content);
        }
    }

    Attention arguments(Scratch& scratch) {
        bool narrow = c_.run.kernels.narrow && c_.type() == Type::bf16;
        Type x_type = narrow ? Type::bf16 : Type::f32;
        return {c_.type(), x_type, c_.latent, c_.turned, tiles_, c_.factor, work_.queries.need(0),
                scratch.keys.need(SPLIT * c_.steps() * DEPTH * size_of(x_type)),
                scratch.values.need(c_.blocks() * ROWS * SPLIT * size_of(c_.type())),
                scratch.scores.need(2 * SPLIT * ROWS),
                scratch.weights.need(2 * SPLIT * ROWS * size_of(x_type))};
    }

    // Pointers to the rows of a split; returns how many there are, rounded up to whole steps.
    int64_t collect(int64_t first, std::vector<const void*>& rows) const {
        int64_t count = std::min(SPLIT, g_.length - first);
        const List& list = c_.lists[g_.start];
        rows.assign(SPLIT, nullptr);
        for (int64_t s = 0; s < count; ++s)
            rows[s] = c_.cache.row(g_.start, g_.dense ? first + s : list.chosen[first + s]);
        return ceil_div(count, DEPTH) * DEPTH;
    }

    void skip(int64_t first, std::vector<int64_t>& next) const {
        for (int64_t token = g_.start; token < g_.stop; ++token)
            c_.lists[token].each_in(0, first, next[token - g_.start], [](int64_t) {});
    }

    // Which query rows see which rows of the split, and which see any.
    void look(int64_t first, Scratch& scratch, std::vector<int64_t>& next) {
        uint16_t* seen = scratch.seen.need(tiles_ * SPLIT);
        uint16_t* own = scratch.own.need(tiles_);
        std::fill_n(seen, tiles_ * SPLIT, uint16_t{0});
        std::fill_n(own, tiles_, uint16_t{0});
        for (int64_t token = g_.start; token < g_.stop; ++token) {
            int64_t from = next[token - g_.start];
            each_tile(token, [&](int64_t tile, uint16_t lanes) {
                uint16_t* marks = seen + tile * SPLIT - first;
                bool any = false;
                next[token - g_.start] = from;
                c_.lists[token].each_in(first, first + SPLIT, next[token - g_.start], [&](int64_t at) {
                    marks[at] = static_cast<uint16_t>(marks[at] | lanes);
                    any = true;
                });
                if (any) own[tile] = static_cast<uint16_t>(own[tile] | lanes);
            });
        }
    }

    // The tiles that hold query rows of a token, and which of their 16.
    template <class F>
    void each_tile(int64_t token, const F& f) const {
        int64_t start = (token - g_.start) * c_.heads, stop = start + c_.heads;
        for (int64_t tile = start / ROWS; tile * ROWS < stop; ++tile) {
            int64_t low = std::max<int64_t>(start - tile * ROWS, 0);
            int64_t high = std::min<int64_t>(stop - tile * ROWS, ROWS);
            f(tile, static_cast<uint16_t>((1 << high) - (1 << low)));
        }
    }

    void one(int64_t split, Scratch& scratch, bool start, const Running& running,
             std::vector<int64_t>& next) {
        const Kernels& kernels = c_.run.kernels;
        Attention args = arguments(scratch);
        look(split * SPLIT, scratch, next);
        const uint16_t *seen = scratch.seen.need(0), *own = scratch.own.need(0);
        if (std::all_of(own, own + tiles_, [](uint16_t lanes) { return lanes == 0; })) return;
        int64_t count = collect(split * SPLIT, scratch.rows);
        if (g_.stop - g_.start == 1)  // the others weigh nothing: they need not be read
            for (int64_t s = 0; s < count; ++s)
                if (!seen[s]) scratch.rows[s] = nullptr;
        if (kernels.take_in(args, count, scratch.rows.data()))
            return kernels.attend(args, count, seen, own, start, running);
        // 0 * NaN is NaN: each token meets the rows that it sees and zeros for the others
        for (int64_t token = g_.start; token < g_.stop; ++token) {
            std::vector<uint16_t> lanes_of(tiles_, 0);
            each_tile(token, [&](int64_t tile, uint16_t lanes) {
                lanes_of[tile] = own[tile] & lanes;
                scratch.alone = scratch.rows;
                for (int64_t s = 0; s < count; ++s)
                    if (!(seen[tile * SPLIT + s] & lanes)) scratch.alone[s] = nullptr;
            });
            kernels.take_in(args, count, scratch.alone.data());
            kernels.attend(args, count, seen, lanes_of.data(), start, running);
        }
    }

    void finish(const Running& running) {
        Attention args{};
        args.type = c_.type(), args.latent = c_.latent;
        for (int64_t row = 0; row < rows_; ++row) {
            int64_t token = g_.start + row / c_.heads;
            char* out = const_cast<char*>(c_.out.at(token, row % c_.heads));
            if (c_.lists[token].count)
                c_.run.kernels.result(args, row, running, out);
            else
                std::fill_n(out, c_.latent * size_of(c_.type()), char{0});
        }
    }

    const Call& c_;
    const Group& g_;
    Work& work_;
    int64_t rows_, tiles_;
};

template <class T>
std::vector<std::unique_ptr<T>>& kept(std::vector<std::unique_ptr<T>>& all, int count) {
    while (static_cast<int>(all.size()) < count) all.push_back(std::make_unique<T>());
    return all;
}

}  // namespace

void attention(Run run, const Array& q_latent, const Array& q_rope, const Paged& cache, float scale,
               const int32_t* indices, int64_t k, const Array& out) {
    static thread_local std::vector<std::unique_ptr<Scratch>> own_scratch;
    static thread_local std::vector<std::unique_ptr<Work>> own_work;
    int64_t heads = q_latent.shape[1];
    if (heads == 0) return;
    std::vector<List> lists;
    for (int64_t token = 0; token < cache.tokens; ++token)
        lists.push_back(list_of(cache, token, indices, k, heads));
    constexpr float LOG2_E = 0x1.715476p+0f;
    Call call{run, q_latent, q_rope, cache, out, lists, scale * LOG2_E, heads, q_latent.shape[2],
              q_rope.shape[2]};
    std::vector<Group> groups = groups_of(cache, lists, heads);
    int64_t count = static_cast<int64_t>(groups.size());
    bool apart = count >= run.threads;  // a group a thread, else all threads on each group
    auto& scratch = kept(own_scratch, run.threads);
    auto& work = kept(own_work, apart ? run.threads : 1);
    each(apart ? run.threads : 1, count, [&](int64_t at, int worker) {
        Attender attender(call, groups[at], *work[worker]);
        if (apart)
            attender.in_order(*scratch[worker]);
        else
            attender.spread(scratch);
    });
}

void route(Run run, const Route& args, int64_t tokens) {
    Buffer<float> scratch;
    scratch.need(run.threads * 4 * args.experts);
    each(run.threads, tokens, [&](int64_t token, int worker) {
        run.kernels.route(args, token, scratch.need(0) + worker * 4 * args.experts);
    });
}

}  // namespace fast
