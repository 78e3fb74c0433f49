"""The exact profile: the same bits on every chip, tile size, batch, split and number of ranks.

Every reduction is a sum of integers, so it has no order. Every rounding happens to one element at
a time, by IEEE float32 operations that are never contracted. `fixed` holds the first half,
`elementwise` the second; each op file holds its own rule, built from these two. What is here is
the definition: readable, in float64 and int64, which give the same integers as the int8 products,
int32 sums and float32 operations that suffice for it.

Prior art: Ozaki et al. 2012 (error-free transformation of matrix products) and its int8 form
(Ootomo et al. 2023), reproducible summation (Demmel and Nguyen 2013).
"""

from glm5_hal.exact.elementwise import (
    READ,
    WRITE,
    divide,
    exp,
    exp2_fraction,
    power,
    read,
    rounded,
    sigmoid,
    square_root,
    write,
)
from glm5_hal.exact.fixed import (
    ACTIVATION_DIGITS,
    LONGEST,
    Fixed,
    check_length,
    contract,
    digits_of,
    exact_sums,
    fixed,
    scaled,
    square_sum,
)

__all__ = [
    "ACTIVATION_DIGITS",
    "LONGEST",
    "READ",
    "WRITE",
    "Fixed",
    "check_length",
    "contract",
    "digits_of",
    "divide",
    "exact_sums",
    "exp",
    "exp2_fraction",
    "fixed",
    "power",
    "read",
    "rounded",
    "scaled",
    "sigmoid",
    "square_root",
    "square_sum",
    "write",
]
