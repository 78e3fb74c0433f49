// The kernels in AVX2 with fused multiply-add.
#include "fast.h"

#ifdef EXACT_X86
#include <immintrin.h>
#pragma GCC target("avx2,fma")

namespace fast {
namespace {

struct Tiles {};
constexpr bool NARROW = false;
constexpr int WIDTH = 8;
typedef float Vector __attribute__((vector_size(4 * WIDTH)));
template <int C>
constexpr int most_rows = C == 4 ? 1 : C == 2 ? 2 : 4;
INLINE Vector fused(Vector a, Vector b, Vector c) { return _mm256_fmadd_ps(a, b, c); }
INLINE Vector spread(float x) { return _mm256_set1_ps(x); }

#include "numbers.h"
#include "lines.h"
#include "turn.h"
#include "vectors.h"
#include "kernels.h"

}  // namespace

const Kernels* avx2_kernels() { return &KERNELS; }

}  // namespace fast

#else
const fast::Kernels* fast::avx2_kernels() { return nullptr; }
#endif
