// What the units with vectors of 16 share.
constexpr int WIDTH = 16;
typedef float Vector __attribute__((vector_size(4 * WIDTH)));
template <int C>
constexpr int most_rows = C == 4 ? 4 : 8;
INLINE Vector fused(Vector a, Vector b, Vector c) { return _mm512_fmadd_ps(a, b, c); }
INLINE Vector spread(float x) { return _mm512_set1_ps(x); }
#include "numbers.h"
#include "lines.h"
#include "turn512.h"
#include "vectors.h"
