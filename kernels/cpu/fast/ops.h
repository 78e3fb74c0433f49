// The ops: kernels spread over threads. Shapes and dtypes are checked by the binding; what would
// read outside of a cache or of the rows is checked here.
#pragma once

#include <vector>

#include "../arrays.h"
#include "fast.h"

namespace fast {

struct Run {
    const Kernels& kernels;
    int threads;
};

// Matrices [E, N, K] as blocks.
struct Weights {
    const void* blocks;
    Type type;
    int64_t count, rows, length;

    int64_t steps() const { return ceil_div(length, DEPTH); }
    int64_t tall() const { return ceil_div(rows, ROWS); }
    int64_t bytes() const { return count * tall() * steps() * PLANE * size_of(type); }
};

void pack_weights(Run run, const Array& w, const Weights& to);
void linear(Run run, const Array& x, const Weights& w, const Array& out);
void grouped_linear(Run run, const Array& x, const Weights& w, const int32_t* offsets,
                    const Array& out);
void head_linear(Run run, const Array& x, const Weights& w, const Array& out);
// `ids` and `by` [T, k]; `shared` null or [T, D].
void experts(Run run, const Array& x, const int32_t* ids, const float* by, int64_t k,
             const Weights& gate_up, const Weights& down, const Array* shared, const Array& out);

void index_scores(Run run, const Array& q, const float* weights, float scale, const Paged& keys,
                  float* out, int64_t stride);
void dsa_select(Run run, const Array& q, const float* weights, float scale, const Paged& keys,
                int64_t k, int32_t* out);
void topk(Run run, const Array& scores, const int32_t* lengths, int64_t k, int32_t* out);

// `indices` [T, k] or null.
void attention(Run run, const Array& q_latent, const Array& q_rope, const Paged& cache, float scale,
               const int32_t* indices, int64_t k, const Array& out);

void route(Run run, const Route& args, int64_t tokens);

}  // namespace fast
