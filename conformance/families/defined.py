"""Every op of the exact profile on every variant: the bytes of its definition."""

from collections.abc import Iterator

from glm5_hal.conformance.case import Case
from glm5_hal.conformance.families.judging import case, in_exact, recorded
from glm5_hal.conformance.subjects import variants
from glm5_hal.levels import Level

REQUIREMENT = {
    "embedding": "EMBEDDING-2",
    "linear": "LINEAR-EXACT-1",
    "head_linear": "HEAD-LINEAR-EXACT-1",
    "rms_norm": "RMS-NORM-EXACT-1",
    "layer_norm": "LAYER-NORM-EXACT-1",
    "rope": "ROPE-EXACT-1",
    "swiglu": "SWIGLU-EXACT-1",
    "cache_write": "CACHE-WRITE-2",
    "cache_read": "CACHE-READ-1",
    "latent_attention": "ATTENTION-EXACT-1",
    "mla": "MLA-2",
    "index_scores": "INDEX-SCORES-EXACT-1",
    "topk": "TOPK-5",
    "dsa_select": "DSA-SELECT-2",
    "moe_route": "ROUTE-EXACT-1",
    "moe_dispatch": "DISPATCH-3",
    "moe_combine": "COMBINE-EXACT-1",
    "grouped_linear": "GROUPED-LINEAR-EXACT-1",
    "moe_experts": "EXPERTS-2",
    "muon_orthogonalize": "MUON-EXACT-1",
    "sample": "SAMPLE-EXACT-1",
    "row_exponents": "ROW-EXPONENTS-1",
    "linear_limbs": "LINEAR-LIMBS-1",
    "linear_from_limbs": "LINEAR-FROM-LIMBS-1",
}
"""What is meant to find other bytes of an op: its first exact requirement, where it has one."""

_KINDS = ("normal", "outlier60", "outlier1000", "zeros", "subnormal", "inf", "nan")
_FEWER_KINDS = {
    "moe_route": _KINDS[:-1],  # which of several NaN is chosen first is nobody's business
    "topk": (*_KINDS, "plateau", "equal", "neartie"),
}
_FLOAT_ONLY = frozenset({"topk", "moe_route", "sample"})

HINTS = {
    "linear": "digits of 8n - 2 bits, rounded ties to even; every pair of digits; one rounding",
    "rms_norm": "an exact sum of squares; correctly rounded division and root, not rsqrt",
    "layer_norm": "mean and variance of integers; correctly rounded division and root, not rsqrt",
    "rope": "a fused multiply-add, or thresholds left out",
    "swiglu": "a library's exponential, a fused multiply-add, or an approximate reciprocal",
    "latent_attention": "a running maximum, a maximum per split, or a library's exp2",
    "index_scores": "heads in another order, or a fused multiply-add",
    "moe_route": "a library's sigmoid, or an approximate reciprocal",
    "moe_combine": "slots in another order, or a fused multiply-add",
    "sample": "float sums where integers are asked for",
    "muon_orthogonalize": "as linear; a fused multiply-add in b A + c A A",
}
"""What usually causes other bytes of an op."""
for _op in ("head_linear", "grouped_linear", "linear_limbs", "linear_from_limbs", "row_exponents"):
    HINTS[_op] = HINTS["linear"]


def cases() -> Iterator[Case]:
    """One case a variant."""
    for op, requirement in REQUIREMENT.items():
        kinds = _FEWER_KINDS.get(op, _KINDS)
        dtypes = ("fp32",) if op in _FLOAT_ONLY else ("fp32", "bf16")
        for v in variants(op, kinds=kinds, dtypes=dtypes):
            check = recorded(v.call, HINTS.get(op, ""))
            level = Level.CROSS_BACKEND.value
            yield in_exact(case(requirement, "parity", v, check, aspect=level, tag="bytes"))
