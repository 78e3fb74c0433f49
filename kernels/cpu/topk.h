// The k largest scores of a row in a total order: included as numbers.h is, after it.

INLINE int64_t count_from(const uint32_t* keys, int64_t n, uint32_t level) {
    uint32_t count = 0;  // as wide as a key, so that vectors hold as many of either
    for (int64_t i = 0; i < n; ++i) count += keys[i] >= level;
    return count;
}

INLINE int64_t count_equal(const uint32_t* keys, int64_t n, uint32_t level) {
    uint32_t count = 0;
    for (int64_t i = 0; i < n; ++i) count += keys[i] == level;
    return count;
}

// A level and how many of n keys reach it: exactly k, or, where keys tie, the k-th largest key.
struct Reached {
    uint32_t level;
    int64_t count;
};

// 1 <= k <= n. Bit by bit from the highest one in which any two keys differ; counting is what
// vectors do best, and a level that k keys reach ends it early.
INLINE Reached level_of(const uint32_t* keys, int64_t n, int64_t k) {
    uint32_t any = 0, every = 0xFFFFFFFF;
    for (int64_t i = 0; i < n; ++i) any |= keys[i], every &= keys[i];
    uint32_t varying = any ^ every;
    Reached found{every, n};
    if (varying == 0) return found;
    uint32_t bit = 1u << (31 - __builtin_clz(varying));
    found.level &= ~(2 * bit - 1);
    for (; bit && found.count > k; bit >>= 1) {
        int64_t count = count_from(keys, n, found.level | bit);
        if (count >= k) found = {found.level | bit, count};
    }
    return found;
}

// Appends the places in [first, last) whose keys exceed `bound`; returns the new end.
INLINE int32_t* append_above(const uint32_t* keys, int64_t first, int64_t last, uint32_t bound,
                             int32_t* out) {
#ifdef __AVX512F__
    const __m512i level = _mm512_set1_epi32(static_cast<int32_t>(bound)), step = _mm512_set1_epi32(16);
    __m512i places = _mm512_add_epi32(
        _mm512_set1_epi32(static_cast<int32_t>(first)),
        _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
    for (; first + 16 <= last; first += 16, places = _mm512_add_epi32(places, step)) {
        __mmask16 above = _mm512_cmpgt_epu32_mask(_mm512_loadu_si512(keys + first), level);
        _mm512_mask_compressstoreu_epi32(out, above, places);
        out += __builtin_popcount(above);
    }
#endif
    for (; first < last; ++first)
        if (keys[first] > bound) *out++ = static_cast<int32_t>(first);
    return out;
}

// Behind the place of the `room`-th key that equals `level`.
INLINE int64_t end_of_ties(const uint32_t* keys, int64_t n, uint32_t level, int64_t room) {
    constexpr int64_t TOGETHER = 256;
    int64_t end = 0;
    for (; end + TOGETHER <= n; end += TOGETHER) {
        int64_t ties = count_equal(keys + end, TOGETHER, level);
        if (ties >= room) break;
        room -= ties;
    }
    for (; room > 0; ++end) room -= keys[end] == level;
    return end;
}

void topk(const float* scores, int64_t length, int64_t k, int32_t* out, uint32_t* keys) {
    int32_t *end = out, *stop = out + k;
    if (length <= k) {
        for (int32_t i = 0; i < length; ++i) *end++ = i;
    } else if (k > 0) {
        for (int64_t i = 0; i < length; ++i) keys[i] = order_key(scores[i]);
        Reached found = level_of(keys, length, k);
        int64_t ties = length;  // up to here all that reach the level, behind it those above
        if (found.count > k) {
            int64_t above = found.count - count_equal(keys, length, found.level);
            ties = end_of_ties(keys, length, found.level, k - above);
        }
        end = append_above(keys, 0, ties, found.level - 1, out);
        end = append_above(keys, ties, length, found.level, end);
    }
    for (; end < stop; ++end) *end = -1;
}
