"""Instruction sets and tile shapes: every mode of a backend gives the same bytes."""

from collections.abc import Iterator
from contextlib import contextmanager

from glm5_hal import Runtime
from glm5_hal.conformance.call import answer
from glm5_hal.conformance.case import Case, Check, Evidence
from glm5_hal.conformance.families.judging import case, in_exact, raw_digests, same_bytes
from glm5_hal.conformance.families.repeat import subjects
from glm5_hal.conformance.subjects import Variant
from glm5_hal.contract import OPS
from glm5_hal.levels import Numerics


def cases() -> Iterator[Case]:
    """Every op of the exact profile; a backend with one way of computing passes by its bytes."""
    for v in subjects():
        if v.op != "mla_expanded" and OPS[v.op].profile in (None, Numerics.EXACT):
            yield in_exact(
                case("EXACT-MODES-1", "invariance", v, _every_mode(v), tag=f"modes-{v.op}")
            )


def _every_mode(v: Variant) -> Check:
    def check(runtime: Runtime) -> Evidence:
        call = v.call()
        found = answer(runtime, call)
        for mode in runtime.backend.modes():
            with _in_mode(runtime, mode):
                # weights are prepared again: a mode may keep them in a layout of its own
                other = answer(runtime, call)
            same_bytes(
                found,
                other,
                message="a mode of the backend gives other bytes",
                change=f"mode {mode} instead of {runtime.plan.mode}",
                hint="a tile tail, a digit pair or a rounding that one mode treats alone",
                any_nan=False,
            )
        return Evidence(raw_digests(found))

    return check


@contextmanager
def _in_mode(runtime: Runtime, mode: str) -> Iterator[None]:
    runtime.backend.use_mode(mode)
    try:
        yield
    finally:
        runtime.backend.use_mode(runtime.plan.mode)
