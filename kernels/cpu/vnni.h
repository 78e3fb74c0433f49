// Dot products with VNNI instructions: 16 columns by four neighbours along K at a time. They take
// unsigned times signed bytes and do not saturate.

constexpr int FEW_ROWS = 2;

// Brings part of what comes next to the second-level cache; the address may lie anywhere.
template <int BYTES>
inline void fetch(const uint8_t* ahead) {
#pragma GCC unroll 16
    for (int at = 0; at < BYTES; at += 64) _mm_prefetch(ahead + at, _MM_HINT_T1);
}

// R rows from `first` on with the columns of C blocks, all sums in registers.
template <int D, int C, int R>
inline void dots_of(const int8_t* panel, const uint8_t* blocks, int64_t apart, int64_t steps,
                    int first, const uint8_t* ahead, int32_t (*raw)[D + 2][ROWS][ROWS]) {
    __m512i sums[C][R][D + 2];
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c)
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
            for (int d = 0; d < D + 2; ++d) sums[c][r][d] = _mm512_setzero_si512();
    for (int64_t s = 0; s < steps; ++s) {
        const int8_t* x = panel + s * X_DIGITS * PLANE + first * DEPTH;
        const uint8_t* w = blocks + s * D * PLANE;
        fetch<D * PLANE / SHARES>(ahead);
        ahead += D * PLANE / SHARES;
        for (int q = 0; q < DEPTH / 4; ++q, x += 4, w += DEPTH)
#pragma GCC unroll 8
            for (int c = 0; c < C; ++c) {
                __m512i columns[D];
#pragma GCC unroll 8
                for (int j = 0; j < D; ++j)
                    columns[j] = _mm512_loadu_si512(w + c * apart + j * PLANE);
#pragma GCC unroll 8
                for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
                    for (int i = 0; i < X_DIGITS; ++i) {
                        int32_t four;
                        __builtin_memcpy(&four, x + i * PLANE + r * DEPTH, 4);
                        __m512i row = _mm512_set1_epi32(four);
#pragma GCC unroll 8
                        for (int j = 0; j < D; ++j)
                            sums[c][r][i + j] =
                                _mm512_dpbusd_epi32(sums[c][r][i + j], columns[j], row);
                    }
            }
    }
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c)
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
            for (int d = 0; d < D + 2; ++d)
                _mm512_storeu_si512(raw[c][d][first + r], sums[c][r][d]);
}

// Rows behind the last are zeros and are computed with it.
template <int D, int C>
void vector_dots(const int8_t* panel, const uint8_t* blocks, int64_t apart, int64_t steps, int rows,
                 const uint8_t* ahead, int32_t (*raw)[D + 2][ROWS][ROWS]) {
    if (C > 1 && rows == 1) return dots_of<D, C, 1>(panel, blocks, apart, steps, 0, ahead, raw);
    for (int c = 0; c < C; ++c, ++raw, blocks += apart)
        for (int r = 0; r < rows; r += 4)
            if (rows - r <= 2)
                dots_of<D, 1, 2>(panel, blocks, 0, steps, r, ahead, raw);
            else
                dots_of<D, 1, 4>(panel, blocks, 0, steps, r, ahead, raw);
}
