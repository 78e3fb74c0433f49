// 16 rows of 16 words, `apart` bytes from each other, to [16][16]: words change places within
// quarters of 4 x 4, then quarters.
INLINE void transpose(const void* in, int64_t apart, void* turned) {
    const char* from = static_cast<const char*>(in);
    uint32_t* out = static_cast<uint32_t*>(turned);
    __m512i a[16], b[16];
#pragma GCC unroll 16
    for (int r = 0; r < 16; ++r) a[r] = _mm512_loadu_si512(from + r * apart);
#pragma GCC unroll 8
    for (int r = 0; r < 16; r += 2) {
        b[r] = _mm512_unpacklo_epi32(a[r], a[r + 1]);
        b[r + 1] = _mm512_unpackhi_epi32(a[r], a[r + 1]);
    }
#pragma GCC unroll 4
    for (int r = 0; r < 16; r += 4) {
        a[r] = _mm512_unpacklo_epi64(b[r], b[r + 2]);
        a[r + 1] = _mm512_unpackhi_epi64(b[r], b[r + 2]);
        a[r + 2] = _mm512_unpacklo_epi64(b[r + 1], b[r + 3]);
        a[r + 3] = _mm512_unpackhi_epi64(b[r + 1], b[r + 3]);
    }
#pragma GCC unroll 4
    for (int c = 0; c < 4; ++c) {
        __m512i low = _mm512_shuffle_i32x4(a[c], a[c + 4], 0x88);
        __m512i high = _mm512_shuffle_i32x4(a[c], a[c + 4], 0xDD);
        __m512i low_too = _mm512_shuffle_i32x4(a[c + 8], a[c + 12], 0x88);
        __m512i high_too = _mm512_shuffle_i32x4(a[c + 8], a[c + 12], 0xDD);
        _mm512_storeu_si512(out + c * 16, _mm512_shuffle_i32x4(low, low_too, 0x88));
        _mm512_storeu_si512(out + (c + 8) * 16, _mm512_shuffle_i32x4(low, low_too, 0xDD));
        _mm512_storeu_si512(out + (c + 4) * 16, _mm512_shuffle_i32x4(high, high_too, 0x88));
        _mm512_storeu_si512(out + (c + 12) * 16, _mm512_shuffle_i32x4(high, high_too, 0xDD));
    }
}
