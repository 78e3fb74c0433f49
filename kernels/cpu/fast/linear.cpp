// Linears: panels of activations meet blocks of weights. Several groups of rows, each with a matrix
// of its own, are one op: heads and experts.
#include <algorithm>
#include <stdexcept>

#include "../buffer.h"
#include "../pool.h"
#include "ops.h"

namespace fast {
namespace {

// Rows that share a matrix.
struct Group {
    const char* x;
    int64_t rows, x_stride;  // the stride in bytes
    const int32_t* pick;     // which rows of x; null: the first ones
    int64_t matrix;
    char* out;
};

// Bytes of panels that stay in the second-level cache while blocks of weights pass.
constexpr int64_t RESIDENT = 1 << 20;
// Products below this many terms are not worth waking a thread for.
constexpr int64_t SMALL = 1 << 16;

Type panel_type(Run run, Type x, Type w) {
    return run.kernels.narrow && x == Type::bf16 && w == Type::bf16 ? Type::bf16 : Type::f32;
}

// Panels of a group meet blocks of its matrix.
struct Piece {
    size_t group;
    int64_t panel, panels, block, blocks;
};

class Multiplier {
   public:
    Multiplier(Run run, const std::vector<Group>& groups, Type type, const Weights& w, Type out_type,
               int64_t out_stride)
        : run_(run), groups_(groups), type_(type), w_(w), out_type_(out_type),
          out_stride_(out_stride), panel_(panel_type(run, type, w.type)),
          size_(w.steps() * PLANE * size_of(panel_)) {
        for (const Group& group : groups) {
            firsts_.push_back(count_);
            count_ += ceil_div(group.rows, ROWS);
        }
        tall_ = std::clamp<int64_t>(RESIDENT / std::max<int64_t>(size_, 1), FEWEST, MOST) / 2 * 2;
    }

    void multiply(Buffer<char>& scratch) const {
        int64_t share = std::min(tall_, std::max(FEWEST, ceil_div(count_, 4 * run_.threads) / 2 * 2));
        std::vector<Piece> pieces = cut_to_pieces(share, w_.tall());
        if (static_cast<int>(pieces.size()) >= 2 * run_.threads)
            by_rows(pieces, scratch.need(run_.threads * share * size_), share * size_);
        else
            by_columns(scratch.need(count_ * size_));
        scratch.trim();
    }

   private:
    static constexpr int64_t FEWEST = 16, MOST = 64;  // panels of a piece

    std::vector<Piece> cut_to_pieces(int64_t panels, int64_t blocks) const {
        std::vector<Piece> pieces;
        for (size_t g = 0; g < groups_.size(); ++g)
            for (int64_t own = ceil_div(groups_[g].rows, ROWS), at = 0; at < own; at += panels)
                for (int64_t block = 0; block < w_.tall(); block += blocks)
                    pieces.push_back({g, at, std::min(panels, own - at), block,
                                      std::min(blocks, w_.tall() - block)});
        return pieces;
    }

    // Many rows: a piece has all columns, and cuts its panels where they stay in the cache.
    void by_rows(const std::vector<Piece>& pieces, char* panels, int64_t apart) const {
        each(run_.threads, static_cast<int64_t>(pieces.size()), [&](int64_t at, int worker) {
            const Piece& piece = pieces[at];
            char* own = panels + worker * apart;
            for (int64_t panel = 0; panel < piece.panels; ++panel)
                cut(piece.group, piece.panel + panel, own + panel * size_);
            product(piece, own);
        });
    }

    // Few rows: a piece has some columns, and all panels are cut before.
    void by_columns(char* panels) const {
        int64_t broad = count_ * w_.tall() >= 32 * run_.threads ? 8 : 4;
        int64_t terms = count_ * w_.steps() * PLANE;
        each(terms < SMALL ? 1 : run_.threads, count_, [&](int64_t at, int) {
            size_t group = std::upper_bound(firsts_.begin(), firsts_.end(), at) - firsts_.begin() - 1;
            cut(group, at - firsts_[group], panels + at * size_);
        });
        std::vector<Piece> pieces = cut_to_pieces(tall_, broad);
        int threads = terms * w_.tall() < SMALL ? 1 : run_.threads;
        each(threads, static_cast<int64_t>(pieces.size()), [&](int64_t at, int) {
            const Piece& piece = pieces[at];
            product(piece, panels + (firsts_[piece.group] + piece.panel) * size_);
        });
    }

    void cut(size_t which, int64_t panel, char* to) const {
        const Group& group = groups_[which];
        Source source{{}, type_, w_.length};
        int64_t first = panel * ROWS;
        for (int64_t r = 0; r < ROWS && first + r < group.rows; ++r)
            source.rows[r] =
                group.x + (group.pick ? group.pick[first + r] : first + r) * group.x_stride;
        run_.kernels.cut(source, panel_, 0, to);
    }

    void product(const Piece& piece, const char* panels) const {
        const Group& group = groups_[piece.group];
        int64_t matrix = w_.tall() * w_.steps() * PLANE * size_of(w_.type), row = piece.panel * ROWS;
        Product product{panels,
                        panel_,
                        group.rows - row,
                        static_cast<const char*>(w_.blocks) + group.matrix * matrix,
                        w_.type,
                        w_.rows,
                        w_.steps(),
                        group.out + row * out_stride_ * size_of(out_type_),
                        out_type_,
                        out_stride_};
        run_.kernels.product(product, 0, piece.panels, piece.block, piece.block + piece.blocks);
    }

    Run run_;
    const std::vector<Group>& groups_;
    Type type_;
    const Weights& w_;
    Type out_type_;
    int64_t out_stride_;
    Type panel_;
    int64_t size_, count_ = 0, tall_;
    std::vector<int64_t> firsts_;  // the first panel of each group
};

void multiply(Run run, const std::vector<Group>& groups, Type type, const Weights& w, Type out_type,
              int64_t out_stride) {
    static thread_local Buffer<char> panels;  // the caller's, on every thread
    Multiplier(run, groups, type, w, out_type, out_stride).multiply(panels);
}

Group rows_of(const Array& x, const Array& out) {
    return {x.at(0), x.shape[0], x.stride[0] * size_of(x.type), nullptr, 0,
            const_cast<char*>(out.at(0))};
}

// The slots of every expert in order, and where each expert's begin.
struct Dispatch {
    std::vector<int32_t> slots, tokens;
    std::vector<int64_t> offsets;

    Dispatch(const int32_t* ids, int64_t count, int64_t k, int64_t experts)
        : slots(count), tokens(count), offsets(experts + 1, 0) {
        for (int64_t slot = 0; slot < count; ++slot) {
            if (ids[slot] < 0 || ids[slot] >= experts)
                throw std::out_of_range("an expert id outside of the experts");
            ++offsets[ids[slot] + 1];
        }
        for (int64_t e = 0; e < experts; ++e) offsets[e + 1] += offsets[e];
        std::vector<int64_t> next(offsets.begin(), offsets.end() - 1);
        for (int64_t slot = 0; slot < count; ++slot) {
            int64_t place = next[ids[slot]]++;
            slots[place] = static_cast<int32_t>(slot);
            tokens[place] = static_cast<int32_t>(slot / k);
        }
    }

    template <class F>
    std::vector<Group> groups(const F& made) const {
        std::vector<Group> found;
        for (size_t e = 0; e + 1 < offsets.size(); ++e)
            if (offsets[e] < offsets[e + 1])
                found.push_back(made(static_cast<int64_t>(e), offsets[e], offsets[e + 1] - offsets[e]));
        return found;
    }
};

}  // namespace

void pack_weights(Run run, const Array& w, const Weights& to) {
    int64_t tall = to.tall(), size = to.steps() * PLANE * size_of(to.type);
    each(run.threads, to.count * tall, [&](int64_t at, int) {
        int64_t row = at % tall * ROWS;
        Source source{{}, to.type, to.length};
        for (int64_t r = 0; r < ROWS && row + r < to.rows; ++r)
            source.rows[r] = w.at(at / tall, row + r);
        run.kernels.pack(source, const_cast<char*>(static_cast<const char*>(to.blocks)) + at * size);
    });
}

void linear(Run run, const Array& x, const Weights& w, const Array& out) {
    multiply(run, {rows_of(x, out)}, x.type, w, out.type, out.stride[0]);
}

void grouped_linear(Run run, const Array& x, const Weights& w, const int32_t* offsets,
                    const Array& out) {
    std::vector<Group> groups;
    for (int64_t e = 0; e < w.count; ++e) {
        if (offsets[e] < 0 || offsets[e] > offsets[e + 1] || offsets[e + 1] > x.shape[0])
            throw std::out_of_range("offsets outside of the rows");
        if (offsets[e] < offsets[e + 1])
            groups.push_back({x.at(offsets[e]), offsets[e + 1] - offsets[e],
                              x.stride[0] * size_of(x.type), nullptr, e,
                              const_cast<char*>(out.at(offsets[e]))});
    }
    multiply(run, groups, x.type, w, out.type, out.stride[0]);
}

void head_linear(Run run, const Array& x, const Weights& w, const Array& out) {
    std::vector<Group> groups;
    for (int64_t h = 0; h < w.count; ++h)
        groups.push_back({x.at(0, h), x.shape[0], x.stride[0] * size_of(x.type), nullptr, h,
                          const_cast<char*>(out.at(0, h))});
    multiply(run, groups, x.type, w, out.type, out.stride[0]);
}

void experts(Run run, const Array& x, const int32_t* ids, const float* by, int64_t k,
             const Weights& gate_up, const Weights& down, const Array* shared, const Array& out) {
    static thread_local Buffer<char> own_wide, own_hidden, own_rows;
    int64_t tokens = x.shape[0], count = tokens * k, width = down.length, size = size_of(x.type);
    Dispatch moved(ids, count, k, gate_up.count);
    char* wide = own_wide.need(count * 2 * width * size);
    char* hidden = own_hidden.need(count * width * size);
    char* rows = own_rows.need(count * down.rows * size);
    multiply(run, moved.groups([&](int64_t expert, int64_t first, int64_t own) {
        return Group{x.at(0), own, x.stride[0] * size, moved.tokens.data() + first, expert,
                     wide + first * 2 * width * size};
    }), x.type, gate_up, x.type, 2 * width);
    Swiglu gate{wide, hidden, x.type, width, 2 * width};
    each(run.threads, count, [&](int64_t row, int) { run.kernels.swiglu(gate, row); });
    multiply(run, moved.groups([&](int64_t expert, int64_t first, int64_t own) {
        return Group{hidden + first * width * size, own, width * size, nullptr, expert,
                     rows + first * down.rows * size};
    }), x.type, down, x.type, down.rows);
    std::vector<int32_t> places(count);
    for (int64_t place = 0; place < count; ++place)
        places[moved.slots[place]] = static_cast<int32_t>(place);
    Combine args{rows, places.data(), by, shared ? shared->data : nullptr,
                 const_cast<void*>(out.data), x.type, k, down.rows, down.rows,
                 shared ? shared->stride[0] : 0};
    each(run.threads, tokens, [&](int64_t token, int) { run.kernels.combine(args, token); });
    own_wide.trim(), own_hidden.trim(), own_rows.trim();
}

}  // namespace fast
