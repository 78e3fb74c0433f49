// What the kernels of both profiles share: element types and the arguments of kernels over rows.
#pragma once

#include <cstddef>
#include <cstdint>

#define INLINE inline __attribute__((always_inline))

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define EXACT_X86 1
#endif

namespace cpu {

enum class Type { f32, bf16, i64 };

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t size_of(Type type) { return type == Type::bf16 ? 2 : type == Type::f32 ? 4 : 8; }

struct Norm {
    const void* x;
    const void* residual;  // or null
    const float* weight;
    const float* bias;  // layer norm
    void* h;            // the sum with the residual; x where there is none
    void* y;
    Type type;
    int64_t x_stride, residual_stride, width;
    float eps;
};

struct Rope {
    const void* x;
    const float* angles;  // [T, R] cosines, then sines
    void* out;
    Type type;
    int64_t heads, width, token_stride, head_stride;
    bool interleaved;
};

struct Swiglu {
    const void* x;
    void* out;
    Type type;
    int64_t width, stride;
};

struct Combine {
    const void* rows;
    const int32_t* places;  // [T, k] the row of each slot
    const float* weights;   // [T, k]
    const void* shared;     // or null
    void* out;
    Type type;
    int64_t slots, width, row_stride, shared_stride;
};

struct Route {
    const float* logits;
    const float* bias;
    int32_t* ids;
    float* weights;
    int64_t experts, k, groups, kept_groups;
    bool normalize;
    float scale;
};

}  // namespace cpu
