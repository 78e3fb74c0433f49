// The indexer's scores and the choice of the best, a few tokens at a time, so that no matrix of all
// scores need exist.
#include <algorithm>

#include "../buffer.h"
#include "../pool.h"
#include "ops.h"

namespace fast {
namespace {

constexpr int64_t TOGETHER = 16;  // tokens that meet a block of keys while it is in the cache
constexpr int64_t BROAD = 8;      // blocks of keys that a thread takes at a time

// Neighbouring tokens of one sequence and the keys that the longest of them sees.
struct Stretch {
    int64_t start, stop, longest;

    int64_t groups() const { return ceil_div(stop - start, TOGETHER); }
};

std::vector<Stretch> stretches(const Paged& keys) {
    std::vector<Stretch> found;
    for (int64_t token = 0; token < keys.tokens; ++token) {
        if (found.empty() || keys.sequence[token] != keys.sequence[found.back().start])
            found.push_back({token, token, 0});
        found.back().stop = token + 1;
        found.back().longest = std::max<int64_t>(found.back().longest, keys.lengths[token]);
    }
    return found;
}

class Scorer {
   public:
    Scorer(Run run, const Array& q, const float* weights, float scale, const Paged& keys)
        : run_(run), q_(q), weights_(weights), scale_(scale), keys_(keys) {
        bool narrow = run.kernels.narrow && q.type == Type::bf16 && keys.cache.type == Type::bf16;
        panel_type_ = narrow ? Type::bf16 : Type::f32;
        steps_ = ceil_div(q.shape[2], DEPTH);
        per_token_ = ceil_div(q.shape[1], ROWS);
    }

    // Takes in the keys of a sequence. Where several groups of tokens meet them, they are packed at
    // once; a single group packs what it is about to score, which then is still in the cache.
    void take(const Stretch& stretch) {
        stretch_ = stretch;
        count_ = ceil_div(stretch.longest, ROWS);
        at_once_ = stretch.groups() > 1;
        packed_.need((at_once_ ? count_ : run_.threads * BROAD) * block_bytes());
        if (!at_once_) return;
        each(run_.threads, ceil_div(count_, BROAD), [&](int64_t at, int) {
            pack(at * BROAD, packed_.need(0) + at * BROAD * block_bytes());
        });
    }

    int64_t blocks() const { return count_; }
    int64_t panel_bytes() const { return TOGETHER * per_token_ * steps_ * PLANE * size_of(panel_type_); }

    // Cuts the queries of up to TOGETHER tokens to `panels`; where scores go is left open.
    Index cut(int64_t token, int64_t tokens, char* panels) const {
        int64_t size = steps_ * PLANE * size_of(panel_type_);
        for (int64_t at = 0; at < tokens * per_token_; ++at) {
            Source source{{}, q_.type, q_.shape[2]};
            int64_t head = at % per_token_ * ROWS;
            for (int64_t r = 0; r < ROWS && head + r < q_.shape[1]; ++r)
                source.rows[r] = q_.at(token + at / per_token_, head + r);
            run_.kernels.cut(source, panel_type_, 0, panels + at * size);
        }
        return {panels, panel_type_, weights_ + token * q_.shape[1], scale_, tokens, q_.shape[1],
                steps_, packed_.data(), 0, keys_.cache.type, keys_.lengths + token, nullptr, 0};
    }

    // Scores of the first `blocks` blocks of keys.
    void score(const Index& index, int threads, int64_t blocks) {
        each(threads, ceil_div(blocks, BROAD), [&](int64_t at, int worker) {
            Index own = index;
            if (!at_once_) {
                char* room = packed_.need(0) + worker * BROAD * block_bytes();
                pack(at * BROAD, room);
                own.keys = room, own.first = at * BROAD;
            }
            run_.kernels.index_scores(own, at * BROAD, std::min((at + 1) * BROAD, blocks));
        });
    }

   private:
    int64_t block_bytes() const { return steps_ * PLANE * size_of(keys_.cache.type); }

    // Up to BROAD blocks from block `first` on.
    void pack(int64_t first, char* out) const {
        for (int64_t block = first; block < std::min(first + BROAD, count_); ++block, out += block_bytes()) {
            Source source{{}, keys_.cache.type, q_.shape[2]};
            for (int64_t r = 0; r < ROWS && block * ROWS + r < stretch_.longest; ++r)
                source.rows[r] = keys_.row(stretch_.start, block * ROWS + r);
            run_.kernels.pack(source, out);
        }
    }

    Run run_;
    const Array& q_;
    const float* weights_;
    float scale_;
    const Paged& keys_;
    Type panel_type_;
    int64_t steps_, per_token_, count_ = 0;
    Stretch stretch_{};
    bool at_once_ = true;
    Buffer<char> packed_;  // all keys, or BROAD blocks of each thread
};

}  // namespace

void index_scores(Run run, const Array& q, const float* weights, float scale, const Paged& keys,
                  float* out, int64_t stride) {
    Scorer scorer(run, q, weights, scale, keys);
    Buffer<char> panels;
    panels.need(scorer.panel_bytes());
    for (const Stretch& stretch : stretches(keys)) {
        scorer.take(stretch);
        for (int64_t token = stretch.start; token < stretch.stop; token += TOGETHER) {
            int64_t tokens = std::min(TOGETHER, stretch.stop - token);
            Index index = scorer.cut(token, tokens, panels.need(0));
            index.scores = out + token * stride, index.stride = stride;
            scorer.score(index, run.threads, scorer.blocks());
        }
    }
}

void dsa_select(Run run, const Array& q, const float* weights, float scale, const Paged& keys,
                int64_t k, int32_t* out) {
    Scorer scorer(run, q, weights, scale, keys);
    Buffer<char> panels;
    Buffer<float> scores;
    Buffer<uint32_t> scratch;
    char* own_panels = panels.need(run.threads * scorer.panel_bytes());
    for (const Stretch& stretch : stretches(keys)) {
        bool needed = stretch.longest > k;
        if (needed) scorer.take(stretch);
        int64_t stride = needed ? scorer.blocks() * ROWS : 0;
        bool apart = stretch.groups() >= run.threads;  // a group a thread, else all threads on each group
        int64_t places = apart ? run.threads : 1;
        float* own_scores = scores.need(places * TOGETHER * stride);
        uint32_t* own_scratch = scratch.need(run.threads * stride);
        auto choose = [&](const Index& index, int64_t token, int64_t at, int worker) {
            run.kernels.topk(index.scores + at * stride, index.lengths[at], k,
                             out + (token + at) * k, own_scratch + worker * stride);
        };
        each(apart ? run.threads : 1, stretch.groups(), [&](int64_t group, int worker) {
            int64_t token = stretch.start + group * TOGETHER;
            int64_t tokens = std::min(TOGETHER, stretch.stop - token);
            int64_t longest = *std::max_element(keys.lengths + token, keys.lengths + token + tokens);
            Index index = scorer.cut(token, tokens, own_panels + worker * scorer.panel_bytes());
            index.scores = own_scores + worker * TOGETHER * stride, index.stride = stride;
            if (longest > k) scorer.score(index, apart ? 1 : run.threads, ceil_div(longest, ROWS));
            if (apart)
                for (int64_t at = 0; at < tokens; ++at) choose(index, token, at, worker);
            else
                each(run.threads, tokens, [&](int64_t at, int own) { choose(index, token, at, own); });
        });
    }
}

void topk(Run run, const Array& scores, const int32_t* lengths, int64_t k, int32_t* out) {
    Buffer<uint32_t> scratch;
    scratch.need(run.threads * scores.shape[1]);
    each(run.threads, scores.shape[0], [&](int64_t at, int worker) {
        run.kernels.topk(reinterpret_cast<const float*>(scores.at(at)), lengths[at], k, out + at * k,
                         scratch.need(0) + worker * scores.shape[1]);
    });
}

}  // namespace fast
