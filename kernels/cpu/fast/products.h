// Packing, and products of panels with blocks. A unit defines before it
//   transpose(in, apart, out)  16 rows of 16 words, `apart` bytes from each other, to [16][16];
//   dots<P, C>(x, x_apart, rows, w, w_apart, steps, out)  sums [P * C][16][16] of P panels with C
//   blocks, for panels of float32 with blocks of either type, and of bfloat16 where NARROW.

INLINE void copy_step(const uint16_t* from, uint16_t* to) { __builtin_memcpy(to, from, DEPTH * 2); }
INLINE void copy_step(const float* from, float* to) { __builtin_memcpy(to, from, DEPTH * 4); }
INLINE void copy_step(const uint16_t* from, float* to) {
    put(to, line_of(from));
    put(to + ROWS, line_of(from + ROWS));
}

// A panel of type X of rows of type T, from step `first` on; rows missing are zeros.
template <class X, class T>
INLINE void cut_rows(const Source& source, int64_t first, X* panel) {
    int64_t steps = ceil_div(source.length, DEPTH);
    for (int r = 0; r < ROWS; ++r) {
        const T* row = static_cast<const T*>(source.rows[r]);
        X* line = panel + first * PLANE + r * DEPTH;
        for (int64_t s = 0; s < steps; ++s) {
            int64_t left = row ? source.length - s * DEPTH : 0;
            if (left >= DEPTH) {
                copy_step(row + s * DEPTH, line + s * PLANE);
            } else {
                T some[DEPTH] = {};
                if (left) __builtin_memcpy(some, row + s * DEPTH, left * sizeof(T));
                copy_step(some, line + s * PLANE);
            }
        }
    }
}

void cut(const Source& source, Type to, int64_t step, void* panel) {
    if (to == Type::bf16)
        cut_rows<uint16_t, uint16_t>(source, step, static_cast<uint16_t*>(panel));
    else if (source.type == Type::bf16)
        cut_rows<float, uint16_t>(source, step, static_cast<float*>(panel));
    else
        cut_rows<float, float>(source, step, static_cast<float*>(panel));
}

// A block of 16 rows: words of 4 bytes (a float32, or two bfloat16) change places with rows.
void pack(const Source& source, void* block) {
    constexpr int64_t WORDS = 16, LINE = WORDS * 4;
    int64_t bytes = source.length * size_of(source.type), parts = ceil_div(bytes, LINE);
    if (source.type == Type::f32) parts = ceil_div(source.length, DEPTH) * 2;
    char* out = static_cast<char*>(block);
    for (int64_t part = 0; part < parts; ++part, out += WORDS * LINE) {
        alignas(64) char lines[ROWS][LINE] = {};
        int64_t left = bytes - part * LINE;
        for (int r = 0; r < ROWS; ++r) {
            const char* row = static_cast<const char*>(source.rows[r]);
            if (row && left >= LINE)
                __builtin_memcpy(lines[r], row + part * LINE, LINE);
            else if (row && left > 0)
                __builtin_memcpy(lines[r], row + part * LINE, left);
        }
        transpose(lines[0], LINE, out);
    }
}

template <class X, class W, class T, int P, int C>
INLINE void product_tile(const Product& p, int64_t panel, int64_t block) {
    alignas(64) float sums[P * C][TILE];
    int64_t size = p.steps * PLANE, left = p.rows - panel * ROWS;
    dots<P, C>(static_cast<const X*>(p.panels) + panel * size, size,
               static_cast<int>(left < ROWS ? left : ROWS), static_cast<const W*>(p.blocks) + block * size,
               size, p.steps, sums[0]);
    for (int i = 0; i < P; ++i) {
        int64_t row = (panel + i) * ROWS, rows = p.rows - row < ROWS ? p.rows - row : ROWS;
        for (int64_t r = 0; r < rows; ++r)
            for (int c = 0; c < C; ++c) {
                int64_t column = (block + c) * ROWS;
                T* out = static_cast<T*>(p.out) + (row + r) * p.out_stride + column;
                put_some(out, line_of(sums[i * C + c] + r * ROWS), p.columns - column);
            }
    }
}

// Bytes of blocks that stay in the second-level cache while panels pass. The columns of a strip stand
// side by side in the result, which is then written in runs of a few lines of the cache.
constexpr int64_t STRIP = 1 << 18;

template <class X, class W, class T, int C>
INLINE void product_columns(const Product& p, int64_t panel, int64_t panels, int64_t block) {
    if (panels - panel >= 2)
        product_tile<X, W, T, 2, C>(p, panel, block);
    else
        product_tile<X, W, T, 1, C>(p, panel, block);
}

template <class X, class W, class T>
void product_range(const Product& p, int64_t panel, int64_t panels, int64_t block, int64_t blocks) {
    [[maybe_unused]] Tiles tiles;
    if (panels - panel == 1)
        for (; block + 4 <= blocks; block += 4) product_tile<X, W, T, 1, 4>(p, panel, block);
    int64_t size = p.steps * PLANE * static_cast<int64_t>(sizeof(W));
    int64_t broad = STRIP / size < 2 ? 2 : STRIP / size / 2 * 2;
    for (int64_t strip = block; strip < blocks; strip += broad) {
        int64_t stop = strip + broad < blocks ? strip + broad : blocks;
        for (int64_t at = panel; at < panels; at += 2) {
            int64_t from = strip;
            for (; from + 2 <= stop; from += 2) product_columns<X, W, T, 2>(p, at, panels, from);
            if (from < stop) product_columns<X, W, T, 1>(p, at, panels, from);
        }
    }
}

// Calls f with a zero of the panels' type and one of the blocks'.
template <class F>
INLINE void paired(Type x, Type w, const F& f) {
    if constexpr (NARROW) {
        if (x == Type::bf16) return f(uint16_t{}, uint16_t{});
    }
    if (w == Type::bf16)
        f(float{}, uint16_t{});
    else
        f(float{}, float{});
}

void product(const Product& p, int64_t panel, int64_t panels, int64_t block, int64_t blocks) {
    paired(p.x_type, p.w_type, [&](auto x, auto w) {
        typed(p.out_type, [&](auto out) {
            product_range<decltype(x), decltype(w), decltype(out)>(p, panel, panels, block, blocks);
        });
    });
}
