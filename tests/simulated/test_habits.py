"""Every habit shows on the device while it is on, and is gone when it is off."""

import os
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from inside import DEVICE, inside
from torch import Tensor

from glm5_hal.conformance.simulated import device
from glm5_hal.conformance.simulated.habits import Habits
from glm5_hal.conformance.simulated.switch import ALWAYS, Switch

TINY = 1e-40
"""A subnormal float32."""


def on_device(x: Tensor) -> Tensor:
    return x.to(DEVICE)


def numbers(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def differ(function: Callable[[], Tensor], times: int = 8) -> bool:
    """Whether some calls answer other bytes than the first."""
    first = function().cpu()
    return any(not torch.equal(first, function().cpu()) for _ in range(times))


@inside
def test_subnormals_are_flushed() -> None:
    x = on_device(torch.full((8,), TINY))
    normal = on_device(torch.full((8,), 2e-38))
    for flushes in (True, False):
        device.set_habits(Habits(flushes_subnormals=flushes))
        assert ((x + 0.0) == 0).all().item() is flushes, "an operand"
        assert ((normal * 0.5) == 0).all().item() is flushes, "a result"
        assert x.clone().view(torch.int32).tolist() == [71362] * 8, "moving changes nothing"


@inside
def test_float64_is_refused_or_narrow() -> None:
    third = torch.tensor([1 / 3], dtype=torch.float64)
    assert on_device(third).cpu() == third
    device.set_habits(Habits(float64="32-bit"))
    assert on_device(third).tolist() == third.float().double().tolist()
    assert (on_device(torch.ones(1)).double() / 3).tolist() == third.float().double().tolist()
    device.set_habits(Habits(float64="refused"))
    with pytest.raises(RuntimeError, match=f"{DEVICE}:0 has no float64"):
        on_device(third)
    with pytest.raises(RuntimeError, match="has no float64"):
        on_device(torch.ones(1)).double()


@inside
def test_int64_has_32_bits() -> None:
    for narrow, wanted in (("32-bit", [0, -(2**31)]), ("native", [2**32, 2**31])):
        device.set_habits(Habits(int64=narrow))
        assert on_device(torch.tensor([2**32, 2**31])).tolist() == wanted
        x = on_device(torch.tensor([2**16, 2**16])) * torch.tensor(2**15)
        assert (x * on_device(torch.tensor([2, 1]))).tolist() == wanted
        assert (on_device(torch.tensor([2**30])).expand(4).sum() == 0).item() is (wanted[0] == 0)


@inside
@pytest.mark.parametrize("op", ["mm", "bmm", "addmm", "linear", "addmv", "dot"])
def test_products_are_rounded_while_a_flag_is_on(op: str) -> None:
    a, b = numbers(4, 16), numbers(16, 3, seed=2)
    calls: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "mm": lambda a, b: a @ b,
        "bmm": lambda a, b: torch.bmm(a[None], b[None]),
        "addmm": lambda a, b: torch.addmm(b[:1], a, b),
        "linear": lambda a, b: torch.nn.functional.linear(a, b.T, b[0]),
        "addmv": lambda a, b: torch.mv(a, b[:, 0]),
        "dot": lambda a, b: torch.dot(a[0], b[:, 0]),
    }
    device._set_flag("torch.backends.chipdnn.allow_tf32", True)
    device.set_habits(Habits(rounds_products=Switch.of("while torch.backends.chipdnn.allow_tf32")))
    wanted = calls[op](a, b)
    coarse = calls[op](on_device(a), on_device(b)).cpu()
    assert 1e-5 < (coarse - wanted).abs().max() < 1e-1
    device._set_flag("torch.backends.chipdnn.allow_tf32", False)
    assert torch.equal(calls[op](on_device(a), on_device(b)).cpu(), wanted)


@inside
def test_a_flag_counts_when_an_op_is_submitted() -> None:
    a = on_device(numbers(8, 8))
    device._set_flag("torch.backends.chipdnn.allow_tf32", True)
    device.set_habits(Habits(rounds_products=Switch.of("while torch.backends.chipdnn.allow_tf32")))
    early = (a @ a).cpu()
    with device.held():
        late = a @ a
        device._set_flag("torch.backends.chipdnn.allow_tf32", False)
        exact = a @ a
    assert torch.equal(late.cpu(), early)
    assert not torch.equal(exact.cpu(), early)


@inside
def test_rounding_is_that_of_tf32() -> None:
    from glm5_hal.conformance.simulated.rounding import rounded

    ulp = 2.0**-10
    given = torch.tensor([1 + ulp / 2, 1 + ulp * 1.5, 1 + ulp * 0.51, -1 - ulp / 2, 0.0, torch.inf])
    assert rounded(given, 10).tolist() == [1, 1 + 2 * ulp, 1 + ulp, -1, 0, torch.inf]
    assert rounded(torch.tensor([torch.nan]), 10).isnan().all()


@inside
def test_bfloat16_sums_are_coarse() -> None:
    a = torch.ones(1, 1024, dtype=torch.bfloat16)
    device.set_habits(Habits(coarse_sums=ALWAYS))
    total = on_device(a) @ on_device(a.T)
    assert total.item() == 1024  # sums of 32 are exact up to here
    a = numbers(4, 1024).bfloat16()
    coarse = (on_device(a) @ on_device(a.T)).cpu()
    device.set_habits(Habits())
    assert not torch.equal(coarse, (on_device(a) @ on_device(a.T)).cpu())


@inside
def test_rows_change_products() -> None:
    a, b = on_device(numbers(16, 500)), on_device(numbers(500, 7, seed=2))
    device.set_habits(Habits(rows_change_products=ALWAYS))
    assert torch.equal((a @ b)[:8], a[:8] @ b)
    assert not torch.equal((a @ b)[:2], a[:2] @ b)


@inside
def test_products_need_a_variable() -> None:
    name = "CHIPBLAS_WORKSPACE_CONFIG"
    device.set_habits(Habits(products_need=name))
    a = on_device(numbers(4, 4))
    a @ a
    torch.use_deterministic_algorithms(True)
    try:
        with pytest.raises(RuntimeError, match=f"{name} is not set; set {name}=:4096:8"):
            a @ a
        os.environ[name] = ":4096:8"
        with pytest.raises(RuntimeError, match="is not set"):  # too late
            a @ a
        device.set_habits(Habits(products_need=name))  # as if the device started now
        a @ a
    finally:
        torch.use_deterministic_algorithms(False)
        os.environ.pop(name, None)


UNORDERED: dict[str, Callable[[Tensor], Tensor]] = {
    "mm": lambda x: x @ x.T,
    "sum": lambda x: x.sum(),
    "sum_dim": lambda x: x.sum(-1),
    "mean": lambda x: x.mean(0),
    "cumsum": lambda x: x.cumsum(-1),
    "softmax": lambda x: (x * 4).softmax(-1),
}


@inside
@pytest.mark.parametrize("op", UNORDERED)
def test_sums_have_no_order_unless_asked(op: str) -> None:
    host = numbers(33, 257)
    x = on_device(host)
    device.set_habits(
        Habits(unordered_sums=Switch.of("unless torch.are_deterministic_algorithms_enabled"))
    )
    assert differ(lambda: UNORDERED[op](x))
    torch.testing.assert_close(UNORDERED[op](x).cpu(), UNORDERED[op](host), rtol=1e-4, atol=1e-4)
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.equal(UNORDERED[op](x).cpu(), UNORDERED[op](host))
    finally:
        torch.use_deterministic_algorithms(False)


def _places() -> Tensor:
    return torch.arange(300) % 3


UPDATES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "index_add": lambda x, i: torch.zeros_like(x[:3]).index_add_(0, i, x),
    "scatter_add": lambda x, i: torch.zeros_like(x[:3]).scatter_add_(
        0, i[:, None].expand(300, x.shape[1]), x
    ),
    "index_put_accumulate": lambda x, i: torch.zeros_like(x[:3]).index_put_(
        (i,), x, accumulate=True
    ),
    "embedding_backward": lambda x, i: torch.ops.aten.embedding_dense_backward(x, i, 3, -1, False),
    "winner": lambda x, i: torch.zeros_like(x[:3]).index_put_((i,), x),
}


@inside
@pytest.mark.parametrize("op", UPDATES)
def test_updates_have_no_order(op: str) -> None:
    host = numbers(300, 5)
    x, i = on_device(host), on_device(_places())
    device.set_habits(Habits(unordered_updates=ALWAYS))
    assert differ(lambda: UPDATES[op](x, i))
    if op != "winner":
        torch.testing.assert_close(
            UPDATES[op](x, i).cpu(), UPDATES[op](host, _places()), rtol=1e-4, atol=1e-4
        )
    device.set_habits(Habits())
    assert torch.equal(UPDATES[op](x, i).cpu(), UPDATES[op](host, _places()))


@inside
def test_equals_are_chosen_by_chance() -> None:
    host = torch.tensor([[1.0, 0, 0, 0, 2, 0, 0, 0]])
    x = on_device(host)
    device.set_habits(Habits(unstable_choice=ALWAYS))
    assert differ(lambda: x.topk(4).indices)
    assert differ(lambda: x.sort().indices)
    assert not differ(lambda: x.sort(stable=True).indices)
    for _ in range(5):
        values, indices = (one.cpu() for one in x.topk(4))
        assert values.tolist() == [[2, 1, 0, 0]]
        assert torch.equal(host.gather(1, indices), values)
        assert len(set(indices[0].tolist())) == 4
    device.set_habits(Habits())
    assert not differ(lambda: x.topk(4).indices)


APPROXIMATE = {
    "approximate_division": lambda x: x / 3.3,
    "approximate_functions": torch.exp,
}


@inside
@pytest.mark.parametrize("habit", APPROXIMATE)
def test_some_results_are_neighbours(habit: str) -> None:
    host = numbers(1000)
    x = on_device(host)
    wanted = APPROXIMATE[habit](host)
    device.set_habits(replace(Habits(), **{habit: ALWAYS}))  # type: ignore[arg-type]
    got = APPROXIMATE[habit](x).cpu()
    assert torch.equal(got, APPROXIMATE[habit](x).cpu()), "the same each time"
    away = (got.view(torch.int32) - wanted.view(torch.int32)).abs()
    assert away.max() == 1
    assert 50 < (away == 1).sum() < 500
    assert (on_device(torch.tensor([1.0, 6.0])) / 2).tolist() == [0.5, 3.0]
    device.set_habits(Habits())
    assert torch.equal(APPROXIMATE[habit](x).cpu(), wanted)
