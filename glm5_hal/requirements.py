"""Every requirement of the contract: those of each op, and those of all ops and of the model."""

import glm5_hal.ops  # noqa: F401 - fills OPS
from glm5_hal.contract import OPS, Requirement
from glm5_hal.levels import Numerics

_GENERAL = {
    "RUN-1": "The same call gives the same bytes again in one process.",
    "RUN-2": "The same call gives the same bytes in a fresh process.",
    "RUN-3": "What freed memory held before (NaN included) reaches no result.",
    "RUN-4": "The address and alignment of the inputs, and strides in front of a contiguous last "
    "dimension, change no byte.",
    "RUN-5": "Other work running on the device at the same time changes no byte.",
    "RUN-6": "The number of threads or streams changes no byte.",
    "GUARD-1": "Inputs are as they were after the call; only cache_write changes a cache, and "
    "only the slots it was given.",
    "GUARD-2": "Every element of a result is written and nothing beyond its ends; results own "
    "memory that no later call overwrites.",
    "GUARD-3": "The op runs where the backend says: no detour over the host or another backend.",
    "GUARD-4": "An exception is raised to the caller; the next call uses the same implementation.",
    "MODEL-1": "Logits of a sequence do not depend on what else is in the batch, nor on its place.",
    "MODEL-2": "Logits do not depend on how the tokens are cut into forward passes.",
    "MODEL-3": "Logits of step-by-step decoding are those of one prefill.",
    "MODEL-4": "Logits do not depend on which pages of the cache hold the rows, nor on what those "
    "pages held before.",
    "MODEL-5": "Generated tokens with multi-token prediction are those without.",
    "MODEL-6": "Logits of the tiny model agree with the references within the derived bound, and "
    "the selected positions and experts are the same wherever the margin allows.",
    "MODEL-7": "Sampled tokens depend on seed, sequence and position and on nothing else.",
}

_EXACT = {
    "EXACT-FIXED-1": "Fixing a vector with n digits: e is the smallest exponent with all "
    "|x| < 2^e, X = round(x * 2^(8n - 2 - e)), to nearest, ties to even. |X| = 2^(8n - 2) occurs.",
    "EXACT-FIXED-2": "Subnormal elements of a vector count as zero; a vector of zeros has "
    "e = -126.",
    "EXACT-SUM-1": "Sums of products of fixed vectors are exact for up to 131,071 products: no "
    "pair of digits is dropped, nothing is rounded, wraps or saturates on the way.",
    "EXACT-ROUND-1": "A sum S is rounded once to float32, to nearest, ties to even; then scaled by "
    "2^(ex + ey - bits); then rounded to the output dtype.",
    "EXACT-NAN-1": "NaN or Inf in a vector makes every product with it NaN, of the bit pattern "
    "0x7FC00000 (bfloat16: 0x7FC0); a finite product beyond float32 is infinite.",
    "EXACT-READ-1": "Operands of elementwise operations below 2^-50 in magnitude read as +0. "
    "Scalar arguments (eps, scale) are rounded to float32 and are 0 or at least 2^-100.",
    "EXACT-WRITE-1": "Results below 2^-100 in magnitude, and zeros of either sign, are +0.",
    "EXACT-ROUNDING-1": "float32 additions and multiplications round to nearest, ties to even, one "
    "by one: none is contracted into a fused multiply-add.",
    "EXACT-DIVIDE-1": "Quotients are the float32 nearest to a / b, roots the nearest to sqrt(x).",
    "EXACT-EXP-1": "exp(x) for x <= 0: n = round(x * LOG2_E), r = (x - n * LN_2_HIGH) - "
    "n * LN_2_LOW, (1 + r * p(r)) * 2^n, p by Horner's rule; +0 below -80.",
    "EXACT-EXP2-1": "exp2(f) for f in [-1/2, 1/2]: 1 + f * q(f), q by Horner's rule.",
    "EXACT-SIGMOID-1": "sigmoid(x): s = exp(-|x|), t = 1 / (s + 1); t for x >= 0, else s * t.",
    "EXACT-MODES-1": "Every instruction set and tile shape that a backend can be told to use gives "
    "the same bytes.",
    "EXACT-RANKS-1": "The number of ranks that hold the model together changes no byte of its "
    "logits.",
    "EXACT-BYTES-1": "The whole model's logits and sampled tokens have the recorded digest.",
}

GENERAL = {
    **{key: Requirement(key, text) for key, text in _GENERAL.items()},
    **{key: Requirement(key, text, Numerics.EXACT) for key, text in _EXACT.items()},
}
"""Requirements of every op (RUN, GUARD), of the exact profile (EXACT), of the model (MODEL)."""

REQUIREMENTS: dict[str, Requirement] = {
    **{key: req for op in OPS.values() for key, req in op.requirements.items()},
    **GENERAL,
}
"""All requirements by id."""


def op_of(requirement: str) -> str | None:
    """Name of the op that a requirement belongs to; None for a general one."""
    return next((op.name for op in OPS.values() if requirement in op.requirements), None)
