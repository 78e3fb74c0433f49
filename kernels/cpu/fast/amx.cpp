// The kernels in AVX512, with products of bfloat16 in tiles of 16 x 32 by 32 x 16.
#include "fast.h"

#ifdef EXACT_X86
#include <immintrin.h>
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma,prefer-vector-width=512")
#pragma GCC target("amx-tile,amx-bf16")

namespace fast {
namespace {

constexpr bool NARROW = true;

#include "../tiles.h"

#include "vectors512.h"

constexpr int LINE = 64;  // bytes of a row of a tile

// Two panels with two blocks: sums in tiles 0 to 3, every tile that is loaded is used twice.
INLINE void tile_dots_2x2(const uint16_t* x, int64_t x_apart, const uint16_t* w, int64_t w_apart,
                          int64_t steps, float* out) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t s = 0; s < steps; ++s, x += PLANE, w += PLANE) {
        _tile_loadd(4, x, LINE);
        _tile_loadd(6, w, LINE);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, w + w_apart, LINE);
        _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(5, x + x_apart, LINE);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, out, LINE);
    _tile_stored(1, out + TILE, LINE);
    _tile_stored(2, out + 2 * TILE, LINE);
    _tile_stored(3, out + 3 * TILE, LINE);
}

// One panel with four blocks, which stream from memory where there are few rows.
INLINE void tile_dots_1x4(const uint16_t* x, const uint16_t* w, int64_t apart, int64_t steps,
                          float* out) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t s = 0; s < steps; ++s, x += PLANE, w += PLANE) {
        _tile_loadd(4, x, LINE);
        _tile_loadd(5, w, LINE);
        _tile_dpbf16ps(0, 4, 5);
        _tile_loadd(6, w + apart, LINE);
        _tile_dpbf16ps(1, 4, 6);
        _tile_loadd(5, w + 2 * apart, LINE);
        _tile_dpbf16ps(2, 4, 5);
        _tile_loadd(6, w + 3 * apart, LINE);
        _tile_dpbf16ps(3, 4, 6);
    }
    _tile_stored(0, out, LINE);
    _tile_stored(1, out + TILE, LINE);
    _tile_stored(2, out + 2 * TILE, LINE);
    _tile_stored(3, out + 3 * TILE, LINE);
}

INLINE void tile_dots_1x1(const uint16_t* x, const uint16_t* w, int64_t steps, float* out) {
    _tile_zero(0);
    for (int64_t s = 0; s < steps; ++s, x += PLANE, w += PLANE) {
        _tile_loadd(4, x, LINE);
        _tile_loadd(5, w, LINE);
        _tile_dpbf16ps(0, 4, 5);
    }
    _tile_stored(0, out, LINE);
}

template <int P, int C>
INLINE void dots(const uint16_t* x, int64_t x_apart, int, const uint16_t* w, int64_t w_apart,
                 int64_t steps, float* out) {
    __asm__ volatile("" ::: "memory");  // the compiler does not know that loads of tiles read memory
    if constexpr (P == 2 && C == 2) {
        tile_dots_2x2(x, x_apart, w, w_apart, steps, out);
    } else if constexpr (P == 1 && C == 4) {
        tile_dots_1x4(x, w, w_apart, steps, out);
    } else {
        for (int p = 0; p < P; ++p)
            for (int c = 0; c < C; ++c)
                tile_dots_1x1(x + p * x_apart, w + c * w_apart, steps, out + (p * C + c) * TILE);
    }
}

#include "kernels.h"

}  // namespace

const Kernels* amx_kernels() { return &KERNELS; }

}  // namespace fast

#else
const fast::Kernels* fast::amx_kernels() { return nullptr; }
#endif
