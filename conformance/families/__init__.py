"""The cases, one family a module: each turns subjects into cases of one relation."""

from collections.abc import Iterator

from glm5_hal.conformance.case import Case
from glm5_hal.conformance.families import (
    accuracy,
    attention,
    blocks,
    chains,
    defined,
    edges,
    guards,
    invariance,
    modes,
    movement,
    ranks,
    repeat,
    routing,
    sampling,
    selection,
    shards,
    whole_bytes,
    whole_model,
)
from glm5_hal.conformance.families.judging import in_exact
from glm5_hal.contract import OPS
from glm5_hal.levels import Numerics

_BOTH = (
    whole_model,  # the longest first, so that no worker is left alone with them
    movement,
    accuracy,
    edges,
    selection,
    attention,
    routing,
    sampling,
    invariance,
    repeat,
    guards,
)
_EXACT = (whole_bytes, ranks, defined, blocks, chains, shards, modes)

FAST_ONLY = {
    "mla_expanded": "the exact profile is defined on the absorbed form",
    "MODEL-6": "EXACT-BYTES-1 judges the same model by its bytes",
}
"""Ops and requirements whose cases hold in the fast profile alone, and why."""


def all_cases() -> Iterator[Case]:
    """Every case of the suite: of both profiles, then of the exact one alone."""
    for family in _BOTH:
        for case in family.cases():
            yield from _in_profiles(case)
    for family in _EXACT:
        yield from family.cases()


def _in_profiles(case: Case) -> Iterator[Case]:
    """The case in every profile in which it holds; the checks ask the runtime for its profile."""
    of_op = OPS[case.op].profile if case.op in OPS else None
    if of_op is not Numerics.EXACT:
        yield case
    if not {case.op, case.requirement} & FAST_ONLY.keys():
        yield in_exact(case)
