"""Runtimes on the interpreted kernels, for the tests of this folder."""

import functools
from collections.abc import Callable
from dataclasses import replace

import torch

from glm5_hal import Numerics, Runtime
from glm5_hal.conformance.call import Call, answer
from glm5_hal.conformance.compare import Difference, first_difference
from glm5_hal.conformance.reference_backend import reference_runtime
from glm5_hal.kernels.triton.target import Target
from glm5_hal.plan import make_plan
from glm5_hal.registry import load

MODES = ("large", "small")
"""Tables of tiles."""


@functools.cache
def runtime(numerics: Numerics, mode: str | None = None) -> Runtime:
    """A runtime on `triton-interpret`."""
    backend = load("triton-interpret").in_profile(numerics)
    return Runtime(make_plan(backend, 0, numerics, mode=mode), backend())


def difference(call: Call, mode: str) -> Difference | None:
    """First byte in which the exact answer is not the definition's."""
    wanted = answer(reference_runtime(Numerics.EXACT), call)
    return first_difference(wanted, answer(runtime(Numerics.EXACT, mode), call), any_nan=False)


def target(mode: str) -> Target:
    """The tiles of a mode."""
    found = runtime(Numerics.EXACT, mode).backend._target  # type: ignore[attr-defined]
    assert isinstance(found, Target)
    return found


def dsa_select_with(barriers: bool, mode: str) -> Callable[..., torch.Tensor]:
    """The exact profile's selection on a chip with or without barriers."""
    from glm5_hal.kernels.triton import dsa_select

    return functools.partial(dsa_select.exact, target=replace(target(mode), barriers=barriers))


def select(scores: torch.Tensor, lengths: list[int], k: int, mode: str) -> torch.Tensor:
    """Top-k by the kernel."""
    from glm5_hal.kernels.triton import topk

    return topk.run(scores, torch.tensor(lengths, dtype=torch.int32), k, target(mode))
