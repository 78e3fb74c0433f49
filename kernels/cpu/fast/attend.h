// Attention of tiles of query rows to one split of cached rows. Scores stand as [row][query], so
// that the softmax runs down the rows in sixteen queries at a time; weights of rows that a query
// does not see are zeros, which add nothing.

// `Bits` are those of the elements, `infinity` the bits of Inf.
template <class Bits>
INLINE bool finite_row(const Bits* row, int64_t count, Bits infinity) {
    Bits largest = 0;
    for (int64_t i = 0; i < count; ++i) {
        Bits magnitude = row[i] & (infinity | (infinity - 1));
        largest = magnitude > largest ? magnitude : largest;
    }
    return largest < infinity;
}

// Sixteen values of a row, zeros behind its end.
template <class T>
INLINE Line values_at(const T* row, int64_t column, int64_t width) {
    if (!row) return Line{};
    if (width - column >= ROWS) return line_of(row + column);
    T some[ROWS] = {};
    __builtin_memcpy(some, row + column, (width - column) * sizeof(T));
    return line_of(some);
}

// 32 rows into the blocks of their values: [column block][16][16][2], or [column block][32][16].
INLINE void pack_values(const uint16_t* const* rows, int64_t width, int64_t apart, uint16_t* out) {
    for (int pair = 0; pair < DEPTH / 2; ++pair, out += 2 * ROWS)
        for (int64_t column = 0; column < width; column += ROWS) {
            LineBits low = (LineBits)values_at(rows[2 * pair], column, width) >> 16;
            LineBits both = low | (LineBits)values_at(rows[2 * pair + 1], column, width);
            __builtin_memcpy(out + column / ROWS * apart, &both, sizeof both);
        }
}
INLINE void pack_values(const float* const* rows, int64_t width, int64_t apart, float* out) {
    for (int k = 0; k < DEPTH; ++k, out += ROWS)
        for (int64_t column = 0; column < width; column += ROWS)
            put(out + column / ROWS * apart, values_at(rows[k], column, width));
}

INLINE int64_t query_steps(const Attention& p) {
    return ceil_div(p.latent, DEPTH) + ceil_div(p.turned, DEPTH);
}

template <class T, class Bits>
INLINE bool take_in_rows(const Attention& p, int64_t count, const void* const* rows) {
    constexpr Bits infinity = static_cast<Bits>(sizeof(Bits) == 2 ? 0x7F80 : 0x7F800000);
    int64_t steps = query_steps(p), split = SPLIT / DEPTH * PLANE;
    bool finite = true;
    for (int64_t first = 0; first < count; first += ROWS) {
        Source content{{}, p.type, p.latent}, position{{}, p.type, p.turned};
        for (int r = 0; r < ROWS; ++r) {
            const T* row = static_cast<const T*>(rows[first + r]);
            content.rows[r] = row;
            position.rows[r] = row ? row + p.latent : nullptr;
            if (row) finite &= finite_row(reinterpret_cast<const Bits*>(row), p.latent, infinity);
        }
        char* panel = static_cast<char*>(p.keys) + first / ROWS * steps * PLANE * size_of(p.x_type);
        cut(content, p.x_type, 0, panel);
        cut(position, p.x_type, ceil_div(p.latent, DEPTH), panel);
    }
    for (int64_t first = 0; first < count; first += DEPTH)
        pack_values(reinterpret_cast<const T* const*>(rows + first), p.latent, split,
                    static_cast<T*>(p.values) + first / DEPTH * PLANE);
    return finite;
}

bool take_in(const Attention& p, int64_t count, const void* const* rows) {
    return p.type == Type::bf16 ? take_in_rows<uint16_t, uint16_t>(p, count, rows)
                                : take_in_rows<float, uint32_t>(p, count, rows);
}

// Scores of Q tiles of queries with `count` rows, in 32 rows at a time.
template <class X, class W, int Q>
INLINE void score_split(const Attention& p, int64_t tile, int64_t count) {
    int64_t size = query_steps(p) * PLANE;
    for (int64_t first = 0; first < count; first += 2 * ROWS) {
        alignas(64) float sums[2 * Q][TILE];
        dots<2, Q>(static_cast<const X*>(p.keys) + first / ROWS * size, size, ROWS,
                   static_cast<const W*>(p.queries) + tile * size, size, query_steps(p), sums[0]);
        for (int q = 0; q < Q; ++q)
            for (int i = 0; i < 2; ++i)
                __builtin_memcpy(p.scores + q * SPLIT * ROWS + first * ROWS + i * TILE,
                                 sums[i * Q + q], sizeof sums[0]);
    }
}

INLINE void weights_to_panel(const float* rows, uint16_t* panel) {
    LineBits words[ROWS];  // weights of two neighbouring rows
    for (int pair = 0; pair < ROWS; ++pair)
        words[pair] = narrowed(line_of(rows + 2 * pair * ROWS)) >> 16 |
                      (narrowed(line_of(rows + (2 * pair + 1) * ROWS)) & 0xFFFF0000u);
    transpose(words, sizeof words[0], panel);
}
INLINE void weights_to_panel(const float* rows, float* panel) {
    Line turned[ROWS];
    for (int half = 0; half < 2; ++half) {
        transpose(rows + half * TILE, sizeof turned[0], turned);
        for (int q = 0; q < ROWS; ++q) put(panel + q * DEPTH + half * ROWS, turned[q]);
    }
}

// A bit for each of sixteen queries as a mask.
INLINE LineMask mask_of(uint16_t bits) {
    constexpr LineBits PLACES = {1,      1 << 1, 1 << 2,  1 << 3,  1 << 4,  1 << 5,  1 << 6,  1 << 7,
                                 1 << 8, 1 << 9, 1 << 10, 1 << 11, 1 << 12, 1 << 13, 1 << 14, 1 << 15};
    return ((LineBits{} + bits) & PLACES) != 0u;
}

// What is known of sixteen queries: the largest score and the sum of the weights.
struct Summary {
    Line top, mass;
};

// Scores to weights.
template <class X>
INLINE Summary weigh(const Attention& p, float* scores, const uint16_t* seen, int64_t count,
                     X* panel) {
    Line top = all(-INFINITE), mass = {};
    for (int64_t s = 0; s < count; ++s) {
        Line score = line_of(scores + s * ROWS) * p.factor;
        score = mask_of(seen[s]) ? score : all(-INFINITE);
        put(scores + s * ROWS, score);
        top = larger(score, top);
    }
    // where nothing is above -Inf, -Inf - -Inf would be NaN
    Line base = equal(top, all(-INFINITE)) ? Line{} : top;
    for (int64_t first = 0; first < count; first += DEPTH) {
        for (int64_t s = first; s < first + DEPTH; ++s) {
            Line weight = exp2_negative(line_of(scores + s * ROWS) - base);
            put(scores + s * ROWS, weight);
            mass += weight;
        }
        weights_to_panel(scores + first * ROWS, panel + first * ROWS);
    }
    return {top, mass};
}

// What running and new sums are multiplied with when they meet.
struct Factors {
    float old[ROWS], now[ROWS];
};

INLINE Factors meet(Summary found, uint16_t own, float* running_top, float* running_mass) {
    LineMask changed = mask_of(own);
    Line top = line_of(running_top), mass = line_of(running_mass), both = larger(found.top, top);
    Line old = equal(top, both) ? all(1.0f) : exp2_negative(top - both);
    Line now = equal(found.top, both) ? all(1.0f) : exp2_negative(found.top - both);
    put(running_top, changed ? both : top);
    put(running_mass, changed ? mass * old + found.mass * now : mass);
    Factors factors;
    put(factors.old, old);
    put(factors.now, now);
    return factors;
}

// A row of a tile; + 0.0 because a sum of products that vanish may have either sign.
INLINE void merge_row(const float* sums, float old, float now, float* into) {
    put(into, line_of(into) * old + (line_of(sums) + 0.0f) * now);
}

template <class X, class W, int Q, int C>
INLINE void value_tile(const Attention& p, const X* weights, int64_t count, int64_t tile,
                       int64_t block, const uint16_t* own, const Factors* factors, bool start,
                       const Running& running) {
    constexpr int64_t size = SPLIT / DEPTH * PLANE;
    alignas(64) float sums[Q * C][TILE];
    dots<Q, C>(weights, size, ROWS, static_cast<const W*>(p.values) + block * size, size,
               ceil_div(count, DEPTH), sums[0]);
    int64_t blocks = ceil_div(p.latent, ROWS);
    for (int q = 0; q < Q; ++q)
        for (int c = 0; c < C; ++c) {
            float* into = running.sums + ((tile + q) * blocks + block + c) * TILE;
            const float* from = sums[q * C + c];
            for (int n = 0; n < ROWS; ++n) {
                if (!(own[tile + q] >> n & 1)) continue;
                if (start)
                    __builtin_memcpy(into + n * ROWS, from + n * ROWS, ROWS * sizeof(float));
                else
                    merge_row(from + n * ROWS, factors[q].old[n], factors[q].now[n], into + n * ROWS);
            }
        }
}

template <class X, class W, int Q>
INLINE void attend_tiles(const Attention& p, int64_t count, const uint16_t* seen,
                         const uint16_t* own, bool start, const Running& running, int64_t tile) {
    constexpr int64_t size = SPLIT / DEPTH * PLANE;
    X* weights = static_cast<X*>(p.weights);
    Factors factors[Q];
    score_split<X, W, Q>(p, tile, count);
    for (int q = 0; q < Q; ++q) {
        float *top = running.top + (tile + q) * ROWS, *mass = running.mass + (tile + q) * ROWS;
        Summary found = weigh(p, p.scores + q * SPLIT * ROWS, seen + (tile + q) * SPLIT, count,
                              weights + q * size);
        if (start) {
            LineMask changed = mask_of(own[tile + q]);
            put(top, changed ? found.top : line_of(top));
            put(mass, changed ? found.mass : line_of(mass));
        } else {
            factors[q] = meet(found, own[tile + q], top, mass);
        }
    }
    int64_t blocks = ceil_div(p.latent, ROWS), block = 0;
    for (; block + 2 <= blocks; block += 2)
        value_tile<X, W, Q, 2>(p, weights, count, tile, block, own, factors, start, running);
    if (block < blocks)
        value_tile<X, W, Q, 1>(p, weights, count, tile, block, own, factors, start, running);
}

// `count` is a multiple of 32.
void attend(const Attention& p, int64_t count, const uint16_t* seen, const uint16_t* own, bool start,
            const Running& running) {
    [[maybe_unused]] Tiles tiles;
    paired(p.x_type, p.type, [&](auto x, auto w) {
        using X = decltype(x);
        using W = decltype(w);
        int64_t tile = 0;
        for (; tile + 2 <= p.tiles; tile += 2)
            attend_tiles<X, W, 2>(p, count, seen, own, start, running, tile);
        if (tile < p.tiles) attend_tiles<X, W, 1>(p, count, seen, own, start, running, tile);
    });
}

void merge(const Attention& p, const uint16_t* own, const Running& from, const Running& into) {
    int64_t blocks = ceil_div(p.latent, ROWS);
    for (int64_t tile = 0; tile < p.tiles; ++tile) {
        if (!own[tile]) continue;
        Summary found{line_of(from.top + tile * ROWS), line_of(from.mass + tile * ROWS)};
        Factors factors =
            meet(found, own[tile], into.top + tile * ROWS, into.mass + tile * ROWS);
        for (int64_t row = tile * blocks * ROWS; row < (tile + 1) * blocks * ROWS; ++row)
            if (own[tile] >> row % ROWS & 1)
                merge_row(from.sums + row * ROWS, factors.old[row % ROWS], factors.now[row % ROWS],
                          into.sums + row * ROWS);
    }
}

void result(const Attention& p, int64_t row, const Running& running, void* out) {
    typed(p.type, [&](auto zero) {
        using T = decltype(zero);
        int64_t tile = row / ROWS, blocks = ceil_div(p.latent, ROWS);
        float mass = running.mass[row];
        for (int64_t block = 0; block < blocks; ++block) {
            const float* sums = running.sums + ((tile * blocks + block) * ROWS + row % ROWS) * ROWS;
            put_some(static_cast<T*>(out) + block * ROWS, line_of(sums) / mass,
                     p.latent - block * ROWS);
        }
    });
}
