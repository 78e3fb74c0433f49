// Products with panels of float32, in vectors of WIDTH. Terms are added one by one in order of K,
// whatever is kept in registers, so every shape of call gives an element the same bits.
// A unit defines before it WIDTH, `most_rows` kept at a time, and `fused` of vectors.

typedef uint32_t Words __attribute__((vector_size(4 * WIDTH)));
constexpr int PARTS = ROWS / WIDTH;

// The columns at two neighbouring places along K.
struct Pair {
    Vector first, second;
};
INLINE Pair columns_at(const float* w) { return {loaded<Vector>(w), loaded<Vector>(w + ROWS)}; }
INLINE Pair columns_at(const uint16_t* w) {
    Words both = loaded<Words>(w);
    return {(Vector)(both << 16), (Vector)(both & 0xFFFF0000u)};
}
// In elements: part of a line of 16 columns. Pairs of bfloat16 take twice as many.
INLINE int part_at(const float*, int part) { return part * WIDTH; }
INLINE int part_at(const uint16_t*, int part) { return 2 * part * WIDTH; }

// R rows with the columns of C blocks, all sums in registers.
template <int C, int R, class W>
INLINE void dots_of(const float* x, const W* w, int64_t apart, int64_t steps, float* out) {
    Vector sums[C][PARTS][R];
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c)
#pragma GCC unroll 8
        for (int part = 0; part < PARTS; ++part)
#pragma GCC unroll 8
            for (int r = 0; r < R; ++r) sums[c][part][r] = Vector{};
    for (int64_t s = 0; s < steps; ++s, x += PLANE, w += PLANE)
        for (int k = 0; k < DEPTH; k += 2)
#pragma GCC unroll 8
            for (int c = 0; c < C; ++c)
#pragma GCC unroll 8
                for (int part = 0; part < PARTS; ++part) {
                    Pair columns = columns_at(w + c * apart + k * ROWS + part_at(w, part));
#pragma GCC unroll 8
                    for (int r = 0; r < R; ++r) {
                        Vector& sum = sums[c][part][r];
                        sum = fused(spread(x[r * DEPTH + k]), columns.first, sum);
                        sum = fused(spread(x[r * DEPTH + k + 1]), columns.second, sum);
                    }
                }
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c)
#pragma GCC unroll 8
        for (int part = 0; part < PARTS; ++part)
#pragma GCC unroll 8
            for (int r = 0; r < R; ++r)
                __builtin_memcpy(out + c * TILE + r * ROWS + part * WIDTH, &sums[c][part][r],
                                 sizeof(Vector));
}

template <int C, class W>
INLINE void panel_dots(const float* x, int rows, const W* w, int64_t apart, int64_t steps,
                       float* out) {
    int r = 0;
    for (; r + most_rows<C> <= rows; r += most_rows<C>)
        dots_of<C, most_rows<C>>(x + r * DEPTH, w, apart, steps, out + r * ROWS);
    for (; r < rows; ++r) dots_of<C, 1>(x + r * DEPTH, w, apart, steps, out + r * ROWS);
}

// Sums [P * C][16][16] of P panels with C blocks; of one panel, of its first `rows` rows only.
template <int P, int C, class W>
INLINE void dots(const float* x, int64_t x_apart, int rows, const W* w, int64_t w_apart,
                 int64_t steps, float* out) {
    for (int p = 0; p < P; ++p)
        panel_dots<C>(x + p * x_apart, P == 1 ? rows : ROWS, w, w_apart, steps, out + p * C * TILE);
}
