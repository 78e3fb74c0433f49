// What the fast profile's instruction-set units and operations share: layouts, arguments, the table
// of kernels.
//
// Every product is of 16 rows by 16 columns at a time, terms in steps of 32 along K from the first
// on, in float32. A *panel* holds 16 rows of one operand, [K/32][16][32]; a *block* 16 columns of
// the other, bfloat16 as [K/32][16][16][2] (pairs of neighbours along K stand together, as tiles
// and dot product instructions take them), float32 as [K/32][32][16]. What is missing to whole
// steps, rows and columns are zeros. So an element's sum depends on its own row and column alone.
#pragma once

#include "../common.h"

namespace fast {

using namespace cpu;

constexpr int ROWS = 16;
constexpr int DEPTH = 32;
constexpr int64_t PLANE = ROWS * DEPTH;  // elements of a panel or block in one step
constexpr int64_t TILE = ROWS * ROWS;    // sums of a panel with a block

// Up to 16 rows in memory, each contiguous along K; null where there is none.
struct Source {
    const void* rows[ROWS];
    Type type;
    int64_t length;
};

// Rows of panels times columns of blocks.
struct Product {
    const void* panels;
    Type x_type;  // of the panels
    int64_t rows;
    const void* blocks;
    Type w_type;
    int64_t columns, steps;
    void* out;
    Type out_type;
    int64_t out_stride;
};

// Tokens of one sequence against its packed keys.
struct Index {
    const void* panels;  // of each token: ceil(H / 16)
    Type q_type;         // of the panels
    const float* weights;  // [T, H]
    float scale;
    int64_t tokens, heads, steps;
    const void* keys;  // in blocks of 16
    int64_t first;     // which block `keys` begins with
    Type key_type;
    const int32_t* lengths;
    float* scores;
    int64_t stride;
};

// Rows of the cache that are attended to between two looks at the running maximum. Part of what
// the result is: sums start anew there.
constexpr int64_t SPLIT = 256;

// Query rows (token, head) in tiles of 16, against up to SPLIT cached rows.
struct Attention {
    Type type;    // of rows and queries
    Type x_type;  // of panels made of them
    int64_t latent, turned;  // C and R
    int64_t tiles;           // of query rows
    float factor;            // scale * log2(e)
    const void* queries;     // blocks [tiles], of latent and turned steps
    void* keys;              // panels [SPLIT / 16], of latent and turned steps
    void* values;            // blocks [ceil(C / 16)], of SPLIT / 32 steps
    float* scores;           // [2, SPLIT, 16]
    void* weights;           // panels [2], of SPLIT / 32 steps
};

// The softmax so far of every query row.
struct Running {
    float* top;   // [tiles * 16] the largest score
    float* mass;  // [tiles * 16] sum of weights
    float* sums;  // [tiles, ceil(C / 16), 16, 16]
};

struct Kernels {
    bool narrow;  // whether products of bfloat16 with bfloat16 exist: else panels are float32
    void (*cut)(const Source&, Type to, int64_t step, void* panel);
    void (*pack)(const Source&, void* block);
    void (*product)(const Product&, int64_t panel, int64_t panels, int64_t block, int64_t blocks);
    void (*rms_norm)(const Norm&, int64_t row);
    void (*layer_norm)(const Norm&, int64_t row);
    void (*rope)(const Rope&, int64_t token);
    void (*swiglu)(const Swiglu&, int64_t row);
    void (*combine)(const Combine&, int64_t token);
    void (*route)(const Route&, int64_t token, float* scratch);
    void (*index_scores)(const Index&, int64_t block, int64_t blocks);
    void (*topk)(const float* scores, int64_t length, int64_t k, int32_t* out, uint32_t* scratch);
    // `rows` [count], a multiple of 32, null where there is none; returns whether all are finite.
    bool (*take_in)(const Attention&, int64_t count, const void* const* rows);
    // `seen` [tiles, SPLIT]: which of a tile's 16 query rows see a cached row; `own` [tiles]: which
    // are to be changed at all. Merges into `running`, or starts it.
    void (*attend)(const Attention&, int64_t count, const uint16_t* seen, const uint16_t* own,
                   bool start, const Running& running);
    // Merges what `attend` started elsewhere, for query rows in `own`.
    void (*merge)(const Attention&, const uint16_t* own, const Running& from, const Running& into);
    void (*result)(const Attention&, int64_t row, const Running& running, void* out);
};

// Null where the unit was not built.
const Kernels* generic_kernels();
const Kernels* avx2_kernels();
const Kernels* avx512_kernels();
const Kernels* bf16_kernels();
const Kernels* amx_kernels();

}  // namespace fast
