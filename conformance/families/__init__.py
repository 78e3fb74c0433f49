"""The cases, one family a module: each turns subjects into cases of one relation."""

from collections.abc import Iterator

from glm5_hal.conformance.case import Case
from glm5_hal.conformance.families import (
    accuracy,
    attention,
    edges,
    guards,
    invariance,
    movement,
    repeat,
    routing,
    sampling,
    selection,
    whole_model,
)


def all_cases() -> Iterator[Case]:
    """Every case of the suite."""
    for family in (
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
    ):
        yield from family.cases()
