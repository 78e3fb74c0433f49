// The kernels in AVX512, with products of 16 x 64 by 64 x 16 bytes in tiles.
#include "exact.h"

#ifdef EXACT_X86
#include <immintrin.h>
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,prefer-vector-width=512")
#pragma GCC target("amx-tile,amx-int8")

namespace exact {
namespace {

#include "tiles.h"

#include "vnni.h"

// Sums by weight in tiles 0 to 3; digits of x in 6 and 7, of w in 4 and 5.
inline void tile_dots_2(const int8_t* x, const uint8_t* w, int64_t steps, const uint8_t* ahead,
                        int32_t* raw) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t s = 0; s < steps; ++s, x += 3 * PLANE, w += 2 * PLANE, ahead += 2 * PLANE / SHARES) {
        fetch<2 * PLANE / SHARES>(ahead);
        // two products of one sum stand apart: each waits for the other
        _tile_loadd(6, x, DEPTH);
        _tile_loadd(5, w + PLANE, DEPTH);
        _tile_dpbsud(1, 6, 5);
        _tile_loadd(7, x + PLANE, DEPTH);
        _tile_dpbsud(2, 7, 5);
        _tile_loadd(4, w, DEPTH);
        _tile_dpbsud(0, 6, 4);
        _tile_dpbsud(1, 7, 4);
        _tile_loadd(6, x + 2 * PLANE, DEPTH);
        _tile_dpbsud(2, 6, 4);
        _tile_dpbsud(3, 6, 5);
    }
    _tile_stored(0, raw, DEPTH);
    _tile_stored(1, raw + 256, DEPTH);
    _tile_stored(2, raw + 512, DEPTH);
    _tile_stored(3, raw + 768, DEPTH);
}

// Sums by weight in tiles 0 to 4; a digit of x in 5, of w in 6 and 7.
inline void tile_dots_3(const int8_t* x, const uint8_t* w, int64_t steps, const uint8_t* ahead,
                        int32_t* raw) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    _tile_zero(4);
    for (int64_t s = 0; s < steps; ++s, x += 3 * PLANE, w += 3 * PLANE, ahead += 3 * PLANE / SHARES) {
        fetch<3 * PLANE / SHARES>(ahead);
        _tile_loadd(5, x, DEPTH);
        _tile_loadd(6, w, DEPTH);
        _tile_dpbsud(0, 5, 6);
        _tile_loadd(7, w + PLANE, DEPTH);
        _tile_dpbsud(1, 5, 7);
        _tile_loadd(6, w + 2 * PLANE, DEPTH);
        _tile_dpbsud(2, 5, 6);
        _tile_loadd(5, x + PLANE, DEPTH);
        _tile_dpbsud(3, 5, 6);
        _tile_dpbsud(2, 5, 7);
        _tile_loadd(6, w, DEPTH);
        _tile_dpbsud(1, 5, 6);
        _tile_loadd(5, x + 2 * PLANE, DEPTH);
        _tile_dpbsud(2, 5, 6);
        _tile_dpbsud(3, 5, 7);
        _tile_loadd(6, w + 2 * PLANE, DEPTH);
        _tile_dpbsud(4, 5, 6);
    }
    _tile_stored(0, raw, DEPTH);
    _tile_stored(1, raw + 256, DEPTH);
    _tile_stored(2, raw + 512, DEPTH);
    _tile_stored(3, raw + 768, DEPTH);
    _tile_stored(4, raw + 1024, DEPTH);
}

template <int D, int C>
void dots(const int8_t* panel, const uint8_t* blocks, int64_t apart, int64_t steps, int rows,
          const uint8_t* ahead, int32_t (*raw)[D + 2][ROWS][ROWS]) {
    if (rows <= FEW_ROWS) return vector_dots<D, C>(panel, blocks, apart, steps, rows, ahead, raw);
    for (int c = 0; c < C; ++c, ++raw, blocks += apart) {
        if constexpr (D == 2)
            tile_dots_2(panel, blocks, steps, ahead, (*raw)[0][0]);
        else
            tile_dots_3(panel, blocks, steps, ahead, (*raw)[0][0]);
    }
}

#include "kernels.h"

}  // namespace

const Kernels* amx_kernels() { return &KERNELS; }

}  // namespace exact

#else
const exact::Kernels* exact::amx_kernels() { return nullptr; }
#endif
