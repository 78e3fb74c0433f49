// 16 rows of 16 words, `apart` bytes from each other, to [16][16]. Words of any type: copied as bytes.
INLINE void transpose(const void* in, int64_t apart, void* out) {
    constexpr int64_t WORD = 4, LINE = 16 * WORD;
    for (int64_t r = 0; r < 16; ++r)
        for (int64_t c = 0; c < 16; ++c)
            __builtin_memcpy(static_cast<char*>(out) + c * LINE + r * WORD,
                             static_cast<const char*>(in) + r * apart + c * WORD, WORD);
}
