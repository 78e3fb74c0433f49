"""Kernels in Triton's language on the simulated device, and the habits of compilers."""

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from inside import DEVICE, inside
from torch import Tensor

from glm5_hal.conformance.simulated import device
from glm5_hal.conformance.simulated.habits import Habits, TritonHabits

triton = pytest.importorskip("triton")


def chip(**habits: Any) -> None:
    """Give the device's compiler these habits and no others."""
    device.set_habits(Habits(), replace(TritonHabits(), **habits))


def launch(kernel: Any, grid: int, *arguments: Any, **constants: Any) -> None:
    from glm5_hal.conformance.simulated.launch import launch as start

    start(kernel, (grid,), arguments, {"enable_fp_fusion": False, **constants})


def elementwise(kernel: Any, *operands: Tensor, **constants: Any) -> Tensor:
    """One program of a kernel of `chip_kernels` whose last argument is the result."""
    out = torch.empty(operands[0].shape, device=DEVICE)
    inside = [operand.to(DEVICE) for operand in operands]
    launch(kernel, 1, *inside, out, size=out.numel(), **constants)
    return out.cpu()


def product(a: Tensor, b: Tensor, precision: str | None, dtype: torch.dtype) -> Tensor:
    import chip_kernels

    out = torch.empty(a.shape[0], b.shape[1], device=DEVICE, dtype=dtype)
    launch(
        *(chip_kernels.dot, 1, a.to(DEVICE), b.to(DEVICE), out),
        **{"m": a.shape[0], "k": a.shape[1], "n": b.shape[1], "precision": precision},
    )
    return out.cpu()


def numbers(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@inside
def test_a_launch_is_late_and_in_the_order_of_its_stream() -> None:
    import chip_kernels

    x = torch.arange(8.0)
    with device.held():
        there, out = x.to(DEVICE), torch.empty(8, device=DEVICE)
        goal = torch.zeros(8, pin_memory=True)
        launch(chip_kernels.add, 1, there, there, out, size=8)
        launch(chip_kernels.add, 1, out, there, out, size=8)
        goal.copy_(out, non_blocking=True)
        assert goal.tolist() == [0.0] * 8
        torch.accelerator.synchronize()
        assert torch.equal(goal, 3 * x)


@inside
def test_the_project_s_kernels_give_the_host_s_bytes() -> None:
    from glm5_hal.kernels.triton import topk
    from glm5_hal.kernels.triton.target import read_target

    target = read_target("glm5_hal.backends.triton_interpret", "small.yaml")
    scores = numbers(3, 50).clamp(min=0)
    lengths = torch.tensor([50, 7, 20], dtype=torch.int32)
    got = topk.run(scores.to(DEVICE), lengths.to(DEVICE), 12, target)
    for row, length in enumerate(lengths.tolist()):
        order = scores[row, :length].sort(descending=True, stable=True).indices[:12]
        wanted = [*sorted(order.tolist()), *[-1] * (12 - len(order))]
        assert got[row].tolist() == wanted


@inside
@pytest.mark.parametrize("bad", [False, True])
def test_exact_kernels_withstand_every_habit_but_one(bad: bool) -> None:
    """On a chip with all habits that the exact profile is made for; integers in float32 are not."""
    from glm5_hal import Numerics, Weight, WeightRole
    from glm5_hal.conformance.reference_backend import reference_runtime
    from glm5_hal.exact import digits_of
    from glm5_hal.kernels.triton import fixing, linear, rms_norm
    from glm5_hal.kernels.triton.target import read_target

    target = read_target("glm5_hal.backends.triton_interpret", "large.yaml")
    x, w = 1.9 + numbers(2, 8192) / 100, 1.9 + numbers(2, 8192, seed=2) / 100  # large digits
    definition = reference_runtime(Numerics.EXACT).backend

    def weight(role: WeightRole, tensor: Tensor) -> Weight:
        return definition.prepare_weight(role, tensor)

    normed, _ = definition.rms_norm(x[:, :600], weight(WeightRole.VECTOR, w[0, :600]), 1e-5)
    wanted = [definition.linear(x, weight(WeightRole.LINEAR, w)), normed]

    def answers() -> list[Tensor]:
        rows, weights = x.to(DEVICE), w.to(DEVICE)
        digits = fixing.cut(weights, target, digits_of(w.dtype))
        made = linear.exact(rows, digits, torch.float32, target)
        normed, _ = rms_norm.exact(rows[:, :600], weights[0, :600], 1e-5, None, target)
        return [made.cpu(), normed.cpu()]

    chip(
        default_precision="tf32",
        precisions=("tf32", "ieee"),
        float64="refused",
        flushes_subnormals=True,
        approximate_division=True,
        approximate_functions=True,
        fuses=True,
        unordered_programs=True,
        int8_through_float32=bad,
    )
    same = [torch.equal(a, b) for a, b in zip(answers(), wanted, strict=True)]
    assert same == [not bad, True]


@inside
def test_limits_of_a_launch() -> None:
    import chip_kernels

    from glm5_hal.conformance.simulated.launch import LaunchError
    from glm5_hal.conformance.simulated.launch import launch as start

    x = torch.zeros(8, device=DEVICE)
    chip(grid=(7, 5, 5), programs=20, warps=4)
    with pytest.raises(LaunchError, match="add: a grid of 8 programs along x, at most 7"):
        launch(chip_kernels.add, 8, x, x, x, size=8)
    with pytest.raises(LaunchError, match="a grid of 24 programs, at most 20"):
        start(chip_kernels.add, (6, 4), (x, x, x), {"size": 8})
    with pytest.raises(LaunchError, match="8 warps a program, at most 4"):
        launch(chip_kernels.add, 1, x, x, x, size=8, num_warps=8)
    with pytest.raises(LaunchError, match=f"one device '{DEVICE}'; found: {DEVICE}:0, cpu"):
        launch(chip_kernels.add, 1, x, x.cpu(), x, size=8)
    with pytest.raises(LaunchError, match="is no compiled kernel: unset TRITON_INTERPRET"):
        launch(test_limits_of_a_launch, 1, x)
    with pytest.raises(LaunchError, match="a grid of 8 programs"):
        chip_kernels.add[lambda named: (named["size"],)](x, x, x, size=8)
    launch(chip_kernels.add, 7, x, x, x, size=8, num_warps=4)
    torch.accelerator.synchronize()


@inside
def test_what_a_kernel_does_wrong_comes_with_the_next_wait() -> None:
    import chip_kernels

    x = torch.zeros(64, device=DEVICE)
    with device.held():
        launch(chip_kernels.far, 1, x, 1 << 40)
        with pytest.raises(RuntimeError, match=r"far: it reads element .* outside of the memory"):
            torch.accelerator.synchronize()


@inside
def test_a_dtype_that_the_matrix_unit_lacks_is_refused() -> None:
    chip(dot_dtypes=("int8",))
    product(numbers(16, 32).to(torch.int8), numbers(32, 16).to(torch.int8), None, torch.int32)
    with pytest.raises(RuntimeError, match=r"dot: tl.dot of float32; it takes int8"):
        product(numbers(16, 16), numbers(16, 16), "ieee", torch.float32)


@inside
def test_precision_of_a_float32_dot_product() -> None:
    a, b = numbers(16, 64), numbers(64, 16, seed=2)
    wanted = a @ b

    def error(precision: str | None) -> float:
        return float((product(a, b, precision, torch.float32) - wanted).abs().max())

    chip(default_precision="tf32", precisions=("tf32", "ieee"))
    assert error(None) > 1e-3
    assert error("ieee") < 1e-5
    chip()
    assert error(None) < 1e-5
    with pytest.raises(RuntimeError, match=r"input_precision must be one of .*'ieee'"):
        error("tf32")


@inside
def test_what_holds_no_product_of_floats_is_compiled_once_for_all_precisions() -> None:
    from glm5_hal.conformance.simulated.ttir import execution, front

    compiled: list[str] = []
    own_compiler, own_folder = front._compiled, front.cache_folder

    def counted(bound: front.Bound, habits: Any) -> str:
        compiled.append(bound.kernel.__name__)
        return own_compiler(bound, habits)

    with tempfile.TemporaryDirectory() as folder:
        front._compiled, front.cache_folder = counted, lambda: Path(folder)
        try:
            for kind, count in ((torch.int8, 1), (torch.float32, 2)):
                front.ttir.cache_clear()
                execution.executable.cache_clear()
                compiled.clear()
                a = torch.arange(16 * 32).reshape(16, 32).remainder(7).to(kind)
                wide = torch.int32 if kind == torch.int8 else torch.float32
                for precisions in (("tf32", "ieee"), ("ieee",)):
                    chip(default_precision=precisions[0], precisions=precisions)
                    found = product(a, a.T.contiguous(), None, wide)
                    assert torch.equal(found, a.to(wide) @ a.T.to(wide))
                assert compiled == ["dot"] * count
        finally:
            front._compiled, front.cache_folder = own_compiler, own_folder


@inside
def test_bfloat16_dot_products_are_those_of_bfloat16() -> None:
    chip()
    a, b = numbers(16, 32).bfloat16(), numbers(32, 16, seed=2).bfloat16()
    got = product(a, b, None, torch.float32)
    torch.testing.assert_close(got, a.float() @ b.float(), rtol=1e-5, atol=1e-5)


@inside
def test_integer_products_through_float32() -> None:
    a = (127 - torch.arange(4096) % 5).to(torch.int8).repeat(16, 1)
    wanted = (a.int() @ a.int().T)[0, 0].item()
    for through in (True, False):
        chip(int8_through_float32=through)
        got = product(a, a.T.contiguous(), None, torch.int32)
        assert (got == wanted).all().item() is not through


HABITS: dict[str, tuple[str, dict[str, Any]]] = {
    "flush": ("scale", {"flushes_subnormals": True}),
    "division": ("divide", {"approximate_division": True}),
    "div_rn": ("divide_rn", {"approximate_div_rn": True}),
    "functions": ("exponential", {"approximate_functions": True}),
    "float64_narrow": ("through_float64", {"float64": "32-bit"}),
    "int64_narrow": ("through_int64", {"int64": "32-bit"}),
}


@inside
@pytest.mark.parametrize("name", HABITS)
def test_a_habit_shows_and_vanishes(name: str) -> None:
    import chip_kernels

    kernel, habits = HABITS[name]
    x = numbers(64) * (1e-38 if name == "flush" else 1)
    chip()
    wanted = elementwise(getattr(chip_kernels, kernel), x)
    chip(**habits)
    assert not torch.equal(elementwise(getattr(chip_kernels, kernel), x), wanted)
    chip()
    assert torch.equal(elementwise(getattr(chip_kernels, kernel), x), wanted)


@inside
def test_division_that_is_called_exact_stays_so() -> None:
    import chip_kernels

    x = numbers(64)
    chip(approximate_division=True, approximate_functions=True)
    assert torch.equal(elementwise(chip_kernels.divide_rn, x), x / 3.3)


@inside
def test_float64_can_be_refused() -> None:
    import chip_kernels

    chip(float64="refused")
    with pytest.raises(RuntimeError, match="float64 in a kernel: the chip has none"):
        elementwise(chip_kernels.through_float64, numbers(8))


@inside
def test_products_and_sums_are_fused_unless_the_launch_says_no() -> None:
    import chip_kernels

    x, y = numbers(64), numbers(64, seed=2)
    plain = x * y + x
    exact = (x.double() * y.double() + x.double()).float()
    assert not torch.equal(plain, exact)
    chip(fuses=True)
    assert torch.equal(elementwise(chip_kernels.multiply_add, x, y), plain)
    fused = elementwise(chip_kernels.multiply_add, x, y, enable_fp_fusion=True)
    assert torch.equal(fused, exact)
    chip()
    assert torch.equal(elementwise(chip_kernels.multiply_add, x, y, enable_fp_fusion=True), plain)


@inside
def test_programs_have_no_order() -> None:
    import chip_kernels

    x = numbers(300)

    def total() -> float:
        out = torch.zeros(1, device=DEVICE)
        launch(chip_kernels.atomic_sum, 300, x.to(DEVICE), out)
        return float(out.item())

    calls: list[Callable[[], float]] = [total] * 6
    chip(unordered_programs=True)
    assert len({call() for call in calls}) > 1
    chip()
    assert len({call() for call in calls}) == 1
