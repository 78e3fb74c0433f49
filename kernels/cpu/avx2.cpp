// The kernels in AVX2. Bytes are widened to 16 bits: the 8-bit dot product of this set saturates.
#include "exact.h"

#ifdef EXACT_X86
#include <immintrin.h>
#pragma GCC target("avx2")

namespace exact {
namespace {

struct Tiles {};
constexpr int FEW_ROWS = 0;

template <int D, int C>
void dots(const int8_t* panel, const uint8_t* blocks, int64_t apart, int64_t steps, int rows,
          const uint8_t*, int32_t (*raw)[D + 2][ROWS][ROWS]) {
    for (int c = 0; c < C; ++c)
        for (int half = 0; half < 2; ++half)
            for (int r = 0; r < rows; ++r) {
                __m256i sums[D + 2][2];
                for (int d = 0; d < D + 2; ++d) sums[d][0] = sums[d][1] = _mm256_setzero_si256();
                for (int64_t s = 0; s < steps; ++s) {
                    alignas(32) int16_t x[X_DIGITS][DEPTH];
                    for (int i = 0; i < X_DIGITS; ++i) {
                        const int8_t* from = panel + (s * X_DIGITS + i) * PLANE + r * DEPTH;
                        for (int k = 0; k < DEPTH; k += 16) {
                            __m128i bytes = _mm_loadu_si128((const __m128i*)(from + k));
                            _mm256_store_si256((__m256i*)(x[i] + k), _mm256_cvtepi8_epi16(bytes));
                        }
                    }
                    const uint8_t* w = blocks + c * apart + s * D * PLANE + half * 32;
                    for (int q = 0; q < DEPTH / 4; ++q) {
                        __m256i four[X_DIGITS];
#pragma GCC unroll 3
                        for (int i = 0; i < X_DIGITS; ++i) {
                            int64_t bits;
                            __builtin_memcpy(&bits, x[i] + 4 * q, 8);
                            four[i] = _mm256_set1_epi64x(bits);
                        }
#pragma GCC unroll 3
                        for (int j = 0; j < D; ++j)
#pragma GCC unroll 2
                            for (int part = 0; part < 2; ++part) {
                                const uint8_t* from = w + j * PLANE + q * DEPTH + part * 16;
                                __m128i bytes = _mm_loadu_si128((const __m128i*)from);
                                __m256i columns = _mm256_cvtepu8_epi16(bytes);
#pragma GCC unroll 3
                                for (int i = 0; i < X_DIGITS; ++i)
                                    sums[i + j][part] =
                                        _mm256_add_epi32(sums[i + j][part],
                                                         _mm256_madd_epi16(four[i], columns));
                            }
                    }
                }
                for (int d = 0; d < D + 2; ++d) {
                    // neighbours belong to one column: [0+1, 2+3 | 8+9, ... | 4+5, ... | ...]
                    __m256i pairs = _mm256_hadd_epi32(sums[d][0], sums[d][1]);
                    pairs = _mm256_permute4x64_epi64(pairs, 0xD8);
                    _mm256_storeu_si256((__m256i*)(raw[c][d][r] + 8 * half), pairs);
                }
            }
}

#include "kernels.h"

}  // namespace

const Kernels* avx2_kernels() { return &KERNELS; }

}  // namespace exact

#else
const exact::Kernels* exact::avx2_kernels() { return nullptr; }
#endif
