// The kernels in AVX512.
#include "fast.h"

#ifdef EXACT_X86
#include <immintrin.h>
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,fma,prefer-vector-width=512")

namespace fast {
namespace {

struct Tiles {};
constexpr bool NARROW = false;

#include "vectors512.h"
#include "kernels.h"

}  // namespace

const Kernels* avx512_kernels() { return &KERNELS; }

}  // namespace fast

#else
const fast::Kernels* fast::avx512_kernels() { return nullptr; }
#endif
