// The kernels. Each instruction-set unit includes this once, inside a namespace of its own and
// under its own target pragma, after numbers.h, `transpose` and `dots`. Nothing here may
// instantiate a template of the standard library: the linker could give the copy built for one set
// to all.
//
// Loops are written so that the compiler vectorises them over elements; the order of a sum is
// written out.

#include "products.h"
#include "rows.h"
#include "../elementwise.h"
#include "scores.h"
#include "../topk.h"
#include "attend.h"

constexpr Kernels KERNELS = {
    NARROW, cut,   pack,  product,      rms_norm, layer_norm, rope,   swiglu,
    combine, route, index_scores, topk,  take_in,  attend,     merge,  result,
};
