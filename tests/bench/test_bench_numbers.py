"""Medians, pairs, timing by a clock, memory, peaks: by numbers that a reader can check."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from glm5_hal.conformance.bench import memory, text
from glm5_hal.conformance.bench.peaks import Peaks, measured
from glm5_hal.conformance.bench.spread import Spread, pair_ratios
from glm5_hal.conformance.bench.timing import (
    LEAST_SECONDS,
    RESOLUTIONS,
    SAMPLES,
    measure,
    resolution,
)

CPU = torch.device("cpu")


def test_a_spread_of_few_has_no_quartiles() -> None:
    assert Spread.of([3.0, 1.0, 2.0]) == Spread(3, 1.0, 2.0, 3.0, None)
    assert Spread.of([4.0, 1.0]).median == 2.5


def test_quartiles_are_interpolated() -> None:
    # places 0.25 * 4 = 1 and 0.75 * 4 = 3 of the sorted five
    assert Spread.of([50.0, 10.0, 20.0, 40.0, 30.0]) == Spread(5, 10.0, 30.0, 50.0, (20.0, 40.0))
    assert Spread.of([1.0, 2.0, 3.0, 4.0]).quartiles == (1.75, 3.25)


def test_nothing_has_no_spread() -> None:
    with pytest.raises(ValueError, match="no values"):
        Spread.of([])


def test_ratios_are_of_pairs() -> None:
    assert pair_ratios([1.0, 8.0], [2.0, 4.0]) == [0.5, 2.0]
    with pytest.raises(ValueError, match="shorter"):
        pair_ratios([1.0, 2.0], [1.0])


class Ticking:
    """A clock that moves by whole steps; calls and synchronising take time on it."""

    def __init__(self, step: float, call: float, first: float = 0.0) -> None:
        self.now = 0.0
        self.step, self.cost, self.first = step, call, first
        self.events: list[str] = []

    def __call__(self) -> float:
        self.now += self.step / 8  # reading takes time as well
        return self.step * int(self.now / self.step)

    def call(self) -> None:
        self.now += self.cost + self.first
        self.first = 0.0
        self.events.append("call")

    def synchronize(self) -> None:
        self.events.append("wait")


def test_the_resolution_is_a_step_of_the_clock() -> None:
    assert resolution(Ticking(1e-4, 0)) == pytest.approx(1e-4)
    assert 0 < resolution() < 1e-3


def test_a_short_call_is_looped_until_the_clock_can_tell() -> None:
    clock = Ticking(step=1e-5, call=1e-6)
    timing = measure(clock.call, clock.synchronize, budget=10.0, clock=clock)
    assert timing.loops * 1e-6 >= RESOLUTIONS * 1e-5 - 2e-5
    assert len(timing.seconds) == SAMPLES
    assert timing.seconds[0] == pytest.approx(1e-6, rel=0.01)
    assert timing.warm >= timing.loops
    assert clock.events.count("call") == timing.warm + SAMPLES * timing.loops


def test_a_long_call_is_not_looped_and_the_first_one_is_no_sample() -> None:
    clock = Ticking(step=1e-7, call=LEAST_SECONDS * 2, first=1.0)
    timing = measure(clock.call, clock.synchronize, budget=10.0, clock=clock)
    assert (timing.loops, timing.warm) == (1, 2)
    assert timing.first == pytest.approx(1.0 + LEAST_SECONDS * 2, rel=1e-3)
    assert max(timing.seconds) == pytest.approx(LEAST_SECONDS * 2, rel=1e-3)
    # the device is waited for before the clock starts and before it stops
    assert clock.events[:3] == ["wait", "call", "wait"]
    assert clock.events[3:6] == ["wait", "call", "wait"]


def test_a_budget_ends_the_sampling_but_one_sample_is_taken() -> None:
    slow = Ticking(step=1e-7, call=5.0)
    assert len(measure(slow.call, slow.synchronize, budget=1.0, clock=slow).seconds) == 1
    clock = Ticking(step=1e-7, call=0.4)
    assert len(measure(clock.call, clock.synchronize, budget=1.0, clock=clock).seconds) == 3


def test_peaks_are_of_this_machine() -> None:
    found = measured(torch.float32, CPU, lambda: None, width=64, budget=0.0)
    assert 1e6 < found.flops < 1e16
    assert 1e6 < found.bandwidth < 1e15
    assert Peaks(1.0, 4.0).best(Peaks(2.0, 3.0)) == Peaks(2.0, 4.0)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="no such file here")
def test_a_peak_is_counted_anew() -> None:
    size = 64 << 20
    before = memory.held()
    assert before is not None
    block = torch.ones(size, dtype=torch.uint8)
    del block
    first = memory.peak()
    assert memory.reset_peak(CPU)
    second = memory.peak()
    assert first is not None
    assert second is not None
    assert first >= before + size * 0.9
    assert second < first - size * 0.5


def test_a_run_is_charged_with_what_it_adds() -> None:
    assert memory.Taken(100, 150, 400, True, None).above == 300
    assert memory.Taken(None, None, 400, True, None).above is None


def test_a_control_group_limits_what_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "_GROUP", tmp_path)
    whole = memory.free_host()
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("700000\n")
    (tmp_path / "memory.stat").write_text("anon 5\ninactive_file 200000\n")
    assert memory.free_host() == 500_000
    (tmp_path / "memory.max").write_text("max\n")
    assert whole is None or memory.free_host() != 500_000


@pytest.mark.parametrize(
    ("show", "value", "shown"),
    [
        (text.seconds, 12.345, "12.3 s"),
        (text.seconds, 0.0456, "45.6 ms"),
        (text.seconds, 1.5e-6, "1.50 µs"),
        (text.seconds, 3e-10, "0.30 ns"),
        (text.size, 18.2 * 2**30, "18.2 GiB"),
        (text.size, 300 * 2**20, "300 MiB"),
        (text.size, 1536, "1.50 KiB"),
        (text.tokens, 4096, "4K"),
        (text.tokens, 1000, "1000"),
    ],
)
def test_numbers_for_readers(show: Callable[[float], str], value: float, shown: str) -> None:
    assert show(value) == shown


def test_a_spread_for_readers() -> None:
    assert text.spread(Spread.of([0.01, 0.02, 0.04]), text.seconds) == "20.0 ms (10.0–40.0 ms)"
    assert text.spread(Spread.of([0.5, 2.0]), text.seconds) == "1.25 s (500 ms–2.00 s)"
    assert text.spread(Spread.of([0.5]), text.seconds) == "500 ms"
    assert text.spread(None, text.seconds) == "–"
