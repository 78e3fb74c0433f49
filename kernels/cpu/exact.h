// What the instruction-set units and the operations share: layouts, arguments, the table of kernels.
//
// Vectors are integers times a power of two (their unit), the integers written in balanced digits
// of base 256. A *panel* holds 16 rows of activations as int8 digits, [K/64][digit][16][64]. A
// *block* holds 16 rows of the other operand as digits + 128 in uint8, [K/64][digit][K/4][16][4]:
// one cache line has four neighbours along K of 16 rows, which is what 8-bit dot product
// instructions and tiles take. What the offset of 128 adds is known from the sum of a panel's row.
#pragma once

#include "common.h"

namespace exact {

using namespace cpu;

constexpr int ROWS = 16;
constexpr int DEPTH = 64;
constexpr int64_t PLANE = ROWS * DEPTH;
constexpr int X_DIGITS = 3;
constexpr int X_BITS = 8 * X_DIGITS - 2;
// Steps of 64 whose sums of up to three digit pairs stay in int32: 3 * 255 * 128 * 64 * 256 < 2^31.
constexpr int64_t FLUSH = 256;

// In how many shares a block is fetched while the one before it meets that many panels.
constexpr int64_t SHARES = 4;

struct Panel {
    int8_t* digits;
    double* units;    // [16]; NaN for rows that hold NaN or Inf
    int64_t* totals;  // [16] sums of the integers
};

struct Block {
    uint8_t* digits;
    double* units;  // [16]
};

// Up to 16 rows in memory, each contiguous.
struct Source {
    const void* rows[ROWS];
    int count;
    Type type;
    int64_t length;
    const int64_t* exponents;  // given from outside, or null: those of the rows
};

// Rows of panels times columns of blocks.
struct Product {
    const int8_t* panels;
    const double* x_units;
    const int64_t* x_totals;
    int64_t rows;
    const uint8_t* blocks;
    const double* w_units;
    int64_t columns;
    int64_t steps;  // of 64 along K
    int digits;     // of the blocks
    void* out;
    Type out_type;  // i64: the sums themselves
    int64_t out_stride;
};

// Tokens of one sequence against its packed keys.
struct Index {
    const int8_t* panels;  // of each token: ceil(H / 16)
    const double* q_units;
    const int64_t* q_totals;
    const float* weights;  // [T, H]
    int64_t tokens, heads, steps;
    int digits;
    const uint8_t* keys;
    const double* key_units;
    const int32_t* lengths;
    float* scores;
    int64_t stride;
};

// Query rows (token, head) against one chunk of cached rows.
struct Attention {
    const int8_t *latent, *turned;  // panels of the queries
    const double *latent_units, *turned_units;
    const int64_t *latent_totals, *turned_totals;
    int64_t rows, latent_steps, turned_steps, width;
    int digits;
    uint8_t *keys, *turned_keys, *values;  // blocks of the chunk
    double *key_units, *turned_key_units;
    int32_t* exponents;  // of every visible row
    const int64_t* visible;  // [rows] how many cached rows a query sees
    float* scores;           // [rows, stride]
    int64_t stride, first, count;  // the chunk: cached rows [first, first + count)
    int32_t* tops;                 // [rows, 2] M and G; the first is BROKEN where not finite
    int64_t* masses;               // [rows]
    int8_t* weights;               // panels of the chunk's integer weights
    int64_t* weight_totals;
    int64_t* sums;  // [rows, 16 * ceil(width / 16)]
    float factor;
    void* const* out;  // [rows]
    Type type;
};
constexpr int32_t BROKEN = INT32_MIN;

// 64 cached rows on their way into blocks.
struct Cached {
    const void* const* rows;  // [64], null where there is none
    Type type;
    int64_t latent, turned;
    bool for_scores, for_values;
    int64_t place;    // which 64 of the chunk
    int8_t* scratch;  // [digits, 64, 64 * ceil(latent / 64)]
};

struct Draw {
    const float* logits;
    int64_t width;
    float temperature;
    int64_t limit;  // top_p in 2^-24
    int64_t draw;
    uint32_t* scratch;  // [4 * width]
};

struct Kernels {
    void (*cut)(const Source&, Panel);
    void (*pack)(const Source&, int digits, Block);
    void (*product)(const Product&, int64_t panel, int64_t panels, int64_t block, int64_t blocks);
    void (*rms_norm)(const Norm&, int64_t row);
    void (*layer_norm)(const Norm&, int64_t row);
    void (*rope)(const Rope&, int64_t token);
    void (*swiglu)(const Swiglu&, int64_t row);
    void (*combine)(const Combine&, int64_t token);
    void (*route)(const Route&, int64_t token, float* scratch);
    void (*index_scores)(const Index&, int64_t block, int64_t blocks);
    void (*topk)(const float* scores, int64_t length, int64_t k, int32_t* out, uint32_t* scratch);
    void (*take_in)(const Attention&, const Cached&);
    void (*attention_scores)(const Attention&, int64_t block, int64_t blocks);
    void (*attention_tops)(const Attention&, int64_t row);
    void (*attention_weights)(const Attention&, int64_t panel);
    void (*attention_values)(const Attention&, int64_t block, int64_t blocks);
    void (*attention_result)(const Attention&, int64_t row);
    int32_t (*draw)(const Draw&);
    int32_t (*greedy)(const Draw&);
};

// Null where the unit was not built.
const Kernels* generic_kernels();
const Kernels* avx2_kernels();
const Kernels* avx512_kernels();
const Kernels* amx_kernels();

}  // namespace exact
