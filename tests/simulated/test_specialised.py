"""Launches that come again: what is computed once for all of them changes nothing."""

from collections import Counter

import pytest
import torch
from inside import DEVICE, inside
from torch import Tensor

from glm5_hal.conformance.simulated.ttir import specialised

triton = pytest.importorskip("triton")

SIZE = 16


def summed(x: Tensor, rows: int, width: int, turns: int) -> Tensor:
    """What the device makes of rows of x."""
    import chip_kernels

    from glm5_hal.conformance.simulated.launch import launch

    out = torch.zeros(x.shape[0], SIZE, device=DEVICE)
    launch(
        chip_kernels.running_sums,
        (x.shape[0],),
        (x.to(DEVICE), out, rows, width, turns),
        {"size": SIZE, "enable_fp_fusion": False},
    )
    return out.cpu()


def expected(x: Tensor, rows: int, width: int, turns: int) -> Tensor:
    """What the definition makes of them."""
    taken = min(width, turns * SIZE)
    padded = torch.zeros(x.shape[0], turns, SIZE)
    padded.view(x.shape[0], turns * SIZE)[:, :taken] = x[:, :taken]
    total = torch.zeros(x.shape[0], SIZE)
    for turn in range(turns):
        total += padded[:, turn]
    total *= 0.5 if turns > 1 else 1.0
    total[1::2] *= 2.0
    total[rows:] = 0
    return total


@inside
def test_every_launch_of_a_kind_gives_what_the_first_gives() -> None:
    for rows, width, turns in ((5, 40, 3), (3, 40, 3), (5, 12, 1), (5, 40, 0)):
        for seed in range(4):  # the first as any launch, the others as launches of this kind
            x = torch.randn(5, width, generator=torch.Generator().manual_seed(seed))
            found = summed(x, rows, width, turns)
            assert torch.equal(found, expected(x, rows, width, turns)), (rows, width, turns, seed)


@inside
def test_a_launch_is_specialised_when_it_comes_again() -> None:
    steps: Counter[int] = Counter()
    own = specialised.Specialised._launch

    def counted(self: specialised.Specialised, *arguments: object) -> object:
        launch, routine = own(self, *arguments)  # type: ignore[arg-type]
        steps[len(routine.steps)] += 1
        return launch, routine

    specialised.Specialised._launch = counted  # type: ignore[method-assign,assignment]
    x = torch.ones(5, 56)
    for _ in range(3):
        summed(x, 5, 56, 3)
    specialised.Specialised._launch = own  # type: ignore[method-assign]
    assert list(steps.values()) == [1]  # made once, at the second launch


@inside
def test_reads_outside_are_found_at_every_launch() -> None:
    for _ in range(4):
        with pytest.raises(RuntimeError, match=r"running_sums: it reads element .* outside of the"):
            summed(torch.ones(2, SIZE), 2, 1 << 20, 1 << 10)
