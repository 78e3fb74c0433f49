"""Tapes of the CPU's kernels: what they repeat, and what they leave to the caller."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

from glm5_hal import Numerics, WeightRole
from glm5_hal.backends.cpu.backend import CpuBackend
from glm5_hal.kernels.cpu import tape

CpuFast = CpuBackend.in_profile(Numerics.FAST)
if CpuFast is CpuBackend:
    pytest.skip(
        "no kernels: installed without a compiler, nothing is recorded", allow_module_level=True
    )


@pytest.fixture
def backend() -> Any:
    return CpuFast()


def test_a_tape_computes_with_what_it_finds(backend: Any) -> None:
    weight = backend.prepare_weight(WeightRole.LINEAR, torch.randn(48, 64))
    x, out = torch.empty(3, 64), torch.empty(3, 96)

    def step() -> None:
        left, right = x[:, :32], x[:, 32:]
        turned = torch.cat((right, left), dim=1)
        half = backend.linear(turned, weight)
        low, high = half.clamp(max=0), half + 0  # nothing writes to `half` itself
        out.copy_(torch.cat((low, high), dim=1))

    x.normal_()
    replay = backend.record(step)
    assert replay is not None
    found = []
    for seed in range(3):
        torch.manual_seed(seed)
        x.normal_()
        replay()
        found.append(out.clone())
        step()
        assert torch.equal(found[-1], out)
    assert not torch.equal(found[0], found[1])


def test_several_results_and_writes_in_place_are_repeated(backend: Any) -> None:
    x, out = torch.empty(4, 8), torch.zeros(4)

    def step() -> None:
        values, places = torch.sort(x, dim=1)
        out.add_(values[:, 0]).add_(places[:, 0])

    x.normal_()
    replay = backend.record(step)
    assert replay is not None
    x.normal_()
    wanted = out + x.min(1).values + x.argmin(1)
    replay()
    assert torch.equal(out, wanted)


def asks(x: torch.Tensor) -> None:
    x.add_(1) if x.sum() > 0 else x.sub_(1)


def finds(x: torch.Tensor) -> None:
    x[: len(x.nonzero())] = 1


def draws(x: torch.Tensor) -> None:
    x.normal_()


def needs_much(x: torch.Tensor) -> None:
    torch.empty(tape.LIMIT // 4 + 1).fill_(x[0])


@pytest.mark.parametrize("step", [asks, finds, draws, needs_much])
def test_what_no_tape_can_hold_is_run_and_not_recorded(
    step: Callable[[torch.Tensor], None], backend: Any
) -> None:
    x = torch.ones(4)
    assert backend.record(partial(step, x)) is None
    assert backend.record(lambda: None) is not None


def test_a_class_made_of_it_records_nothing() -> None:
    class Other(CpuFast):  # type: ignore[misc, valid-type]
        """May compute with numpy, which no tape sees."""

    ran: list[int] = []
    assert Other().record(lambda: ran.append(1)) is None
    assert not ran
    assert CpuFast().record(lambda: ran.append(1)) is not None
    assert ran == [1]


def test_an_error_ends_the_recording(backend: Any) -> None:
    def step() -> None:
        raise ValueError("in the middle")

    with pytest.raises(ValueError, match="in the middle"):
        backend.record(step)
    calls: list[int] = []
    tape.run(calls.append, 1)  # on no tape
    assert calls == [1]
