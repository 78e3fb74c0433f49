// The kernels in AVX512 with VNNI.
#include "exact.h"

#ifdef EXACT_X86
#include <immintrin.h>
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,prefer-vector-width=512")

namespace exact {
namespace {

struct Tiles {};

#include "vnni.h"

template <int D, int C>
void dots(const int8_t* panel, const uint8_t* blocks, int64_t apart, int64_t steps, int rows,
          const uint8_t* ahead, int32_t (*raw)[D + 2][ROWS][ROWS]) {
    vector_dots<D, C>(panel, blocks, apart, steps, rows, ahead, raw);
}

#include "kernels.h"

}  // namespace

const Kernels* avx512_kernels() { return &KERNELS; }

}  // namespace exact

#else
const exact::Kernels* exact::avx512_kernels() { return nullptr; }
#endif
