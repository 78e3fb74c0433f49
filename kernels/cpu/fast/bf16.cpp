// The kernels in AVX512 with dot products of pairs of bfloat16.
#include "fast.h"

#ifdef EXACT_X86
#include <immintrin.h>
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma,prefer-vector-width=512")

namespace fast {
namespace {

struct Tiles {};
constexpr bool NARROW = true;

#include "vectors512.h"

template <int C, int R>
INLINE void pair_dots(const uint16_t* x, const uint16_t* w, int64_t apart, int64_t steps,
                      float* out) {
    __m512 sums[C][R];
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c)
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) sums[c][r] = _mm512_setzero_ps();
    for (int64_t s = 0; s < steps; ++s, x += PLANE, w += PLANE)
        for (int k = 0; k < DEPTH; k += 2)
#pragma GCC unroll 8
            for (int c = 0; c < C; ++c) {
                auto columns = (__m512bh)_mm512_loadu_si512(w + c * apart + k * ROWS);
#pragma GCC unroll 8
                for (int r = 0; r < R; ++r) {
                    int32_t two;
                    __builtin_memcpy(&two, x + r * DEPTH + k, sizeof two);
                    sums[c][r] = _mm512_dpbf16_ps(sums[c][r], columns, (__m512bh)_mm512_set1_epi32(two));
                }
            }
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c)
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) _mm512_storeu_ps(out + c * TILE + r * ROWS, sums[c][r]);
}

template <int P, int C>
INLINE void dots(const uint16_t* x, int64_t x_apart, int rows, const uint16_t* w, int64_t w_apart,
                 int64_t steps, float* out) {
    for (int p = 0; p < P; ++p, x += x_apart, out += C * TILE) {
        int r = 0, count = P == 1 ? rows : ROWS;
        for (; r + most_rows<C> <= count; r += most_rows<C>)
            pair_dots<C, most_rows<C>>(x + r * DEPTH, w, w_apart, steps, out + r * ROWS);
        for (; r < count; ++r) pair_dots<C, 1>(x + r * DEPTH, w, w_apart, steps, out + r * ROWS);
    }
}

#include "kernels.h"

}  // namespace

const Kernels* bf16_kernels() { return &KERNELS; }

}  // namespace fast

#else
const fast::Kernels* fast::bf16_kernels() { return nullptr; }
#endif
