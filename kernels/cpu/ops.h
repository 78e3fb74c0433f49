// The ops: kernels spread over threads. Arguments are checked by the caller in Python; only what
// would read outside of a cache is checked here.
#pragma once

#include "arrays.h"
#include "exact.h"

namespace exact {

struct Run {
    const Kernels& kernels;
    int threads;
};

// Matrices [E, N, K] as blocks, with units [E, 16 * ceil(N / 16)].
struct Weights {
    const uint8_t* blocks;
    const double* units;
    int64_t count, rows, length;
    int digits;
};

void pack_weights(Run run, const Array& w, int digits, const int64_t* exponents, uint8_t* blocks,
                  double* units);
void linear(Run run, const Array& x, const Weights& w, const int64_t* exponents, const Array& out);
void grouped_linear(Run run, const Array& x, const Weights& w, const int32_t* offsets,
                    const Array& out);
void head_linear(Run run, const Array& x, const Weights& w, const Array& out);

void index_scores(Run run, const Array& q, const float* weights, const Paged& keys, float* out,
                  int64_t stride);
void dsa_select(Run run, const Array& q, const float* weights, const Paged& keys, int64_t k,
                int32_t* out);
void topk(Run run, const Array& scores, const int32_t* lengths, int64_t k, int32_t* out);

// `indices` [T, k] or null.
void attention(Run run, const Array& q_latent, const Array& q_rope, const Paged& cache,
               float factor, const int32_t* indices, int64_t k, const Array& out);

void route(Run run, const Route& args, int64_t tokens);
void sample(Run run, const Array& logits, const float* temperature, const int64_t* limits,
            const int32_t* draws, int32_t* out);

}  // namespace exact
