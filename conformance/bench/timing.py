"""Timing one call in this process: warm-up, loops that the clock can resolve, a device's queue."""

import time
from collections.abc import Callable
from dataclasses import dataclass

LEAST_SECONDS = 2e-3
"""A sample is at least this long: a short call is run in a loop."""
RESOLUTIONS = 1000
"""A sample is at least this many steps of the clock long."""
SAMPLES = 7
WARM_CALLS = 2
"""Calls before the first sample, at least; finding the length of the loop adds to them."""

Clock = Callable[[], float]


@dataclass(frozen=True)
class Timing:
    """Of one call.

    Attributes:
        first: seconds of the very first call, which is no sample.
        seconds: of a call, one a sample.
        loops: calls a sample.
        warm: calls before the first sample.
    """

    first: float
    seconds: tuple[float, ...]
    loops: int
    warm: int


def resolution(clock: Clock = time.perf_counter, steps: int = 64) -> float:
    """The smallest step that is seen of a clock, in seconds."""
    smallest = float("inf")
    last = clock()
    while steps:
        now = clock()
        if now > last:
            smallest = min(smallest, now - last)
            steps -= 1
        last = now
    return smallest


def measure(
    call: Callable[[], object],
    synchronize: Callable[[], None],
    *,
    budget: float,
    clock: Clock = time.perf_counter,
    samples: int = SAMPLES,
) -> Timing:
    """Time a call.

    Args:
        call: what is timed.
        synchronize: waits for the device; called before a sample begins and before it ends.
        budget: no sample begins later than this many seconds after the first one did.
        clock: seconds.
        samples: most of them; at least one is taken.
    """

    def timed(loops: int) -> float:
        synchronize()
        start = clock()
        for _ in range(loops):
            call()
        synchronize()
        return clock() - start

    first = timed(1)
    least = max(LEAST_SECONDS, RESOLUTIONS * resolution(clock))
    warm, loops = WARM_CALLS, 1
    last = timed(WARM_CALLS - 1)
    while last < least:
        loops *= 2
        last = timed(loops)
        warm += loops
    found: list[float] = []
    begun = clock()
    while not found or (len(found) < samples and clock() - begun < budget):
        found.append(timed(loops) / loops)
    return Timing(first, tuple(found), loops, warm)
