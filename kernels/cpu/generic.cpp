// The kernels in portable C++.
#include "exact.h"

namespace exact {
namespace {

struct Tiles {};
constexpr int FEW_ROWS = 0;

template <int D, int C>
void dots(const int8_t* panel, const uint8_t* blocks, int64_t apart, int64_t steps, int rows,
          const uint8_t*, int32_t (*raw)[D + 2][ROWS][ROWS]) {
    for (int c = 0; c < C; ++c)
        for (int r = 0; r < rows; ++r) {
            int32_t sums[D + 2][ROWS] = {};
            for (int64_t s = 0; s < steps; ++s)
                for (int i = 0; i < X_DIGITS; ++i) {
                    const int8_t* x = panel + (s * X_DIGITS + i) * PLANE + r * DEPTH;
                    for (int j = 0; j < D; ++j) {
                        const uint8_t* w = blocks + c * apart + (s * D + j) * PLANE;
                        for (int q = 0; q < DEPTH; q += 4)
                            for (int n = 0; n < ROWS; ++n) {
                                const uint8_t* four = w + q * ROWS + 4 * n;
                                sums[i + j][n] += x[q] * four[0] + x[q + 1] * four[1] +
                                                  x[q + 2] * four[2] + x[q + 3] * four[3];
                            }
                    }
                }
            for (int d = 0; d < D + 2; ++d)
                __builtin_memcpy(raw[c][d][r], sums[d], sizeof sums[d]);
        }
}

#include "kernels.h"

}  // namespace

const Kernels* generic_kernels() { return &KERNELS; }

}  // namespace exact
