// Scores of the indexer: products of a token's heads with 32 keys, then a sum over the heads in
// their order, all within one block of keys.

template <class X, class W, int P, int C>
INLINE void index_tile(const Index& p, int64_t token, int64_t panel, int64_t block,
                       Line* total) {
    alignas(64) float sums[P * C][TILE];
    int64_t size = p.steps * PLANE, at = token * ceil_div(p.heads, ROWS) + panel;
    int64_t left = p.heads - panel * ROWS;
    dots<P, C>(static_cast<const X*>(p.panels) + at * size, size,
               static_cast<int>(left < ROWS ? left : ROWS),
               static_cast<const W*>(p.keys) + (block - p.first) * size, size, p.steps, sums[0]);
    for (int i = 0; i < P; ++i) {
        int64_t head = (panel + i) * ROWS, rows = p.heads - head < ROWS ? p.heads - head : ROWS;
        for (int64_t r = 0; r < rows; ++r) {
            Line weight = all(p.weights[token * p.heads + head + r] * p.scale);
            for (int c = 0; c < C; ++c) {
                Line dot = line_of(sums[i * C + c] + r * ROWS);
                dot = dot < 0.0f ? Line{} : dot;  // NaN stays
                total[c] = fused_lines(dot, weight, total[c]);
            }
        }
    }
}

template <class X, class W, int C>
INLINE void index_keys(const Index& p, int64_t block) {
    int64_t panels = ceil_div(p.heads, ROWS);
    for (int64_t token = 0; token < p.tokens; ++token) {
        int64_t count = p.lengths[token] - block * ROWS;
        if (count <= 0) continue;
        Line total[C] = {};
        int64_t panel = 0;
        for (; panel + 2 <= panels; panel += 2) index_tile<X, W, 2, C>(p, token, panel, block, total);
        if (panel < panels) index_tile<X, W, 1, C>(p, token, panel, block, total);
        for (int c = 0; c < C && count > c * ROWS; ++c)
            put_some(p.scores + token * p.stride + (block + c) * ROWS, total[c], count - c * ROWS);
    }
}

void index_scores(const Index& p, int64_t block, int64_t blocks) {
    [[maybe_unused]] Tiles tiles;
    paired(p.q_type, p.key_type, [&](auto x, auto w) {
        using X = decltype(x);
        using W = decltype(w);
        for (; block + 2 <= blocks; block += 2) index_keys<X, W, 2>(p, block);
        if (block < blocks) index_keys<X, W, 1>(p, block);
    });
}
