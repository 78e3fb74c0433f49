// The kernels in portable C++.
#include "fast.h"

namespace fast {
namespace {

struct Tiles {};
constexpr bool NARROW = false;
constexpr int WIDTH = 4;
typedef float Vector __attribute__((vector_size(4 * WIDTH)));
template <int C>
constexpr int most_rows = C == 1 ? 2 : 1;
INLINE Vector fused(Vector a, Vector b, Vector c) { return a * b + c; }
INLINE Vector spread(float x) { return Vector{x, x, x, x}; }

#include "numbers.h"
#include "lines.h"
#include "turn.h"
#include "vectors.h"
#include "kernels.h"

}  // namespace

const Kernels* generic_kernels() { return &KERNELS; }

}  // namespace fast
