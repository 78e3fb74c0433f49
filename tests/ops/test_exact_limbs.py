"""`cpu-limbs`: the bytes of the definitions from int8 digits, int32 and float32 alone."""

import ast
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from wild_calls import EDGES, NOT_FINITE, Wild

from glm5_hal import Numerics, WeightRole, open_runtime
from glm5_hal.backends import cpu_limbs
from glm5_hal.backends.cpu_limbs import (
    arrays,
    attention,
    elementwise,
    fixing,
    floats,
    integers,
    linear,
    moe,
    muon,
    sampling,
    select,
)
from glm5_hal.backends.cpu_limbs.fixing import Fixed
from glm5_hal.conformance.call import Call, answer
from glm5_hal.conformance.reference_backend import reference_runtime
from glm5_hal.conformance.subjects import BUILDERS, variants
from glm5_hal.errors import ContractError

DEFINITION = reference_runtime(Numerics.EXACT)
LIMBS = open_runtime("cpu-limbs", "exact")
MODULES = [arrays, attention, elementwise, fixing, floats, integers, linear, moe, muon]
MODULES += [sampling, select]
KINDS = ("normal", "outlier60", "outlier1000", "zeros", "subnormal", "inf", "nan")
MOVERS = {"embedding", "cache_write", "cache_read", "moe_dispatch"}
"""Ops that carry bytes as they are, those of any NaN too."""
COMPUTED = sorted(set(BUILDERS) - {"mla_expanded"})
WILD = sorted(name for name in vars(Wild) if name in BUILDERS)

Ints = npt.NDArray[np.int32]


def bits(x: Tensor) -> Tensor:
    """The bytes as integers."""
    return x.contiguous().view({2: torch.int16, 4: torch.int32}[x.element_size()])


def canonical(x: Tensor) -> Tensor:
    """Every NaN as EXACT-NAN-1 says: torch's own conversion to bfloat16 differs between CPUs."""
    if not x.is_floating_point():
        return x
    nan = torch.tensor(0x7FC0 if x.dtype == torch.bfloat16 else 0x7FC00000).to(bits(x).dtype)
    return torch.where(x.isnan(), nan, bits(x)).view(x.dtype)


def assert_defined(call: Call, label: str = "") -> None:
    """The backend answers a call with the definition's bytes."""
    for part, (wanted, found) in enumerate(
        zip(answer(DEFINITION, call), answer(LIMBS, call), strict=True)
    ):
        if call.op not in MOVERS and not (part == 1 and call.arguments.get("residual", 0) is None):
            wanted = canonical(wanted)
        assert (wanted.dtype, wanted.shape) == (found.dtype, found.shape), label
        wrong = bits(wanted) != bits(found)
        assert not wrong.any(), (label, wanted[wrong][:4], found[wrong][:4])


# --- whole ops ---


@pytest.mark.parametrize("op", COMPUTED)
def test_every_variant_of_the_suite(op: str) -> None:
    for variant in variants(op, kinds=KINDS):
        if variant.shape.quick or (variant.kind == "normal" and not variant.shape.real):
            assert_defined(variant.call(), variant.label)


@pytest.mark.parametrize("op", WILD)
def test_wild_values(op: str) -> None:
    for seed in range(40):
        assert_defined(Wild(seed).call(op), f"seed {seed}")


@pytest.fixture
def flushed() -> Iterator[None]:
    """Subnormal operands and results of this thread count as zero."""
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush subnormal numbers")
    torch.set_flush_denormal(False)
    yield
    torch.set_flush_denormal(False)


@pytest.mark.parametrize("op", WILD)
@pytest.mark.usefixtures("flushed")
def test_a_chip_that_flushes_subnormal_numbers_has_the_same_bytes(op: str) -> None:
    for seed in range(30):
        call = Wild(1000 + seed).call(op)
        whole = answer(LIMBS, call)
        torch.set_flush_denormal(True)
        flushing = answer(LIMBS, call)
        torch.set_flush_denormal(False)
        for a, b in zip(whole, flushing, strict=True):
            assert torch.equal(bits(a), bits(b)), seed


def test_the_longest_sums() -> None:
    lowest = 64 * 2**16 - 128 * 2**8 - 128  # the two lower digits are -128
    for number in (2**22, lowest):
        row = torch.full((1, fixing.LONGEST), number / 2**22)
        row = row if number < 2**22 else row * (1 - 2**-24)  # rounds up to 2^22
        w = LIMBS.prepare_weight(WeightRole.LINEAR, -row)
        found = LIMBS.backend.linear(row, w)
        assert found.item() == -float(np.float32(number**2 * fixing.LONGEST)) * 2.0**-44
    longer = torch.ones(1, fixing.LONGEST + 1)
    with pytest.raises(ContractError, match="131,071"):
        LIMBS.backend.linear(longer, LIMBS.prepare_weight(WeightRole.LINEAR, longer))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("w_dtype", [torch.float32, torch.bfloat16], ids=["w32", "w16"])
def test_ranks_add_up(dtype: torch.dtype, w_dtype: torch.dtype) -> None:
    for seed in range(20):
        wild = Wild(seed)
        x, w = wild.float32(5, 60).to(dtype), wild.float32(7, 60).to(w_dtype)
        w = torch.where(w.isfinite(), w, 1.0)  # the limbs of other weights are not defined
        answers = [_in_ranks(runtime, x, w) for runtime in (DEFINITION, LIMBS)]
        for wanted, found in zip(*answers, strict=True):
            assert torch.equal(bits(canonical(wanted)), bits(found)), seed
        whole = LIMBS.backend.linear(x, LIMBS.prepare_weight(WeightRole.LINEAR, w))
        assert torch.equal(bits(answers[1][-1]), bits(whole)), seed


def _in_ranks(runtime: Any, x: Tensor, w: Tensor) -> list[Tensor]:
    """Exponents and limbs of every rank, and the values that come of them."""
    backend, cuts = runtime.backend, [(0, 7), (7, 7), (7, 59), (59, 60)]
    shards = [backend.prepare_shard(w, *cut) for cut in cuts]
    parts = [x[:, start:stop].contiguous() for start, stop in cuts]
    own = [backend.row_exponents(part) for part in parts]
    shared = torch.stack(own).amax(0)
    limbs = [backend.linear_limbs(p, s, shared) for p, s in zip(parts, shards, strict=True)]
    total = torch.stack(limbs).sum(0, dtype=torch.int32)
    return [*own, *limbs, backend.linear_from_limbs(total, shared, shards[0], x.dtype)]


# --- what it is made of ---


def test_weights_are_kept_as_int8_digits() -> None:
    for role in (WeightRole.LINEAR, WeightRole.HEAD_LINEAR, WeightRole.EXPERTS):
        for dtype, digits in ((torch.float32, 3), (torch.bfloat16, 2)):
            kept = LIMBS.prepare_weight(role, torch.randn(4, 5, 6).to(dtype)).data
            assert isinstance(kept, Fixed)
            assert kept.digits.dtype == np.int8
            assert kept.digits.shape == (4, digits, 5, 6)


def test_nothing_of_the_definition_is_imported() -> None:
    for path in Path(next(iter(cpu_limbs.__path__))).glob("*.py"):
        tree = ast.parse(path.read_text("utf-8"))
        for node in ast.walk(tree):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            assert not any(name.startswith("glm5_hal.exact") for name in names), path
            assert not (isinstance(node, ast.Attribute) and "reference" in node.attr), path


class Narrow(np.ndarray):
    """An array that must not become wider than 32 bits; what is made of it is one, too."""

    def __array_finalize__(self, obj: object) -> None:
        assert self.dtype.itemsize <= 4, f"an array of {self.dtype}"


class Watched:
    """numpy, handing out narrow arrays. What finds or counts positions may use any integers."""

    POSITIONS = frozenset({"argmax", "argsort", "bincount", "count_nonzero", "flatnonzero"})

    def __getattr__(self, name: str) -> Any:
        real = getattr(np, name)
        if isinstance(real, type) or not callable(real):
            return real

        def function(*args: Any, **kwargs: Any) -> Any:
            if name in self.POSITIONS:
                plain = [a.view(np.ndarray) if isinstance(a, Narrow) else a for a in args]
                return real(*plain, **kwargs)
            result = real(*args, **kwargs)
            return result.view(Narrow) if isinstance(result, np.ndarray) else result

        return function


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every array that the backend makes or takes from a tensor is checked."""
    real = torch.Tensor.numpy
    monkeypatch.setattr(torch.Tensor, "numpy", lambda self: real(self).view(Narrow))
    for module in MODULES:
        if hasattr(module, "np"):
            monkeypatch.setattr(module, "np", Watched())


@pytest.mark.parametrize("op", COMPUTED)
@pytest.mark.usefixtures("watched")
def test_no_array_is_wider_than_32_bits(op: str) -> None:
    for variant in variants(op, quick_only=True):
        if not variant.shape.real:
            answer(LIMBS, variant.call())


@pytest.mark.usefixtures("watched")
def test_wider_arrays_are_found() -> None:
    taken = torch.zeros(3, dtype=torch.int32).numpy()
    for widen in (
        lambda: taken.astype(np.float64),
        lambda: taken.sum(-1, keepdims=True),
        lambda: taken * np.float32(0.5),
        lambda: integers.np.arange(3),
        lambda: integers.np.where(taken > 0, 0.5, taken),
    ):
        with pytest.raises(AssertionError, match="an array of"):
            widen()


# --- integers ---


def limbs_of(values: list[int], count: int = integers.SUM_LIMBS) -> Ints:
    """Python integers as carried limbs."""
    rows = [[(v >> (16 * i)) & 0xFFFF for v in values] for i in range(count - 1)]
    return np.array([*rows, [v >> (16 * (count - 1)) for v in values]], np.int32)


def values_of(number: Ints) -> list[int]:
    """Limbs as Python integers."""
    rows = [[int(part) << (16 * i) for part in limb] for i, limb in enumerate(number)]
    return [sum(column) for column in zip(*rows, strict=True)]


def rounded(value: Fraction) -> tuple[int, int]:
    """(mantissa, exponent) of a positive number to 24 bits, ties to even."""
    exponent = value.numerator.bit_length() - value.denominator.bit_length() - 24
    while value >= Fraction(2) ** (exponent + 24):
        exponent += 1
    while value < Fraction(2) ** (exponent + 23):
        exponent -= 1
    exponent = max(exponent, -149)
    mantissa = round(value / Fraction(2) ** exponent)  # Python rounds ties to even
    return mantissa, exponent


def nearest(value: Fraction) -> float:
    """The float32 nearest to a rational number, as IEEE 754 says."""
    if not value:
        return 0.0
    mantissa, exponent = rounded(abs(value))
    size = float(mantissa * Fraction(2) ** exponent)
    size = float("inf") if size >= 2.0**128 else size
    return size if value > 0 else -size


def near_ties() -> st.SearchStrategy[int]:
    """Integers below 2^61 whose 24 upper bits are followed by about a half."""
    return st.builds(
        lambda mantissa, shift, off, sign: (
            sign * ((mantissa << shift) + (1 << shift >> 1) + min(off, 1 << shift >> 1))
        ),
        st.integers(1 << 23, (1 << 24) - 1),
        st.integers(0, 36),
        st.integers(-2, 2),
        st.sampled_from((1, -1)),
    )


sums = st.one_of(st.integers(-(2**61), 2**61), st.integers(-(2**25), 2**25), near_ties())
quick = settings(max_examples=150, deadline=None)


@quick
@given(st.lists(sums, min_size=1, max_size=8))
def test_sums_are_rounded_to_24_bits(values: list[int]) -> None:
    negative, mantissa, exponent = integers.rounded(limbs_of(values))
    for i, value in enumerate(values):
        found = int(mantissa[i]) * Fraction(2) ** int(exponent[i])
        assert found == Fraction(nearest(Fraction(abs(value))))
        assert bool(negative[i]) == (value < 0)
        assert value == 0 or 2**23 <= mantissa[i] < 2**24
    assert floats.nearest(limbs_of(values)).tolist() == [nearest(Fraction(v)) for v in values]


@quick
@given(st.lists(st.integers(0, 2**62), min_size=1, max_size=5), st.integers(0, 2**31 - 1))
def test_products_by_a_factor(values: list[int], factor: int) -> None:
    assert values_of(integers.times(limbs_of(values), factor)) == [v * factor for v in values]


@quick
@given(st.lists(st.tuples(sums, sums), min_size=1, max_size=5))
def test_comparisons(pairs: list[tuple[int, int]]) -> None:
    left, right = (limbs_of([pair[i] for pair in pairs]) for i in (0, 1))
    assert integers.less(left, right).tolist() == [a < b for a, b in pairs]
    assert not integers.less(left, left).any()


@quick
@given(st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=40))
def test_totals_and_running_sums(values: list[int]) -> None:
    assert values_of(integers.total(np.array([values], np.int32))) == [sum(values)]
    sizes = [abs(v) % 2**31 for v in values]
    running = values_of(integers.running_sums(np.array(sizes, np.int32)))
    assert running == np.cumsum(sizes).tolist()


def test_a_million_of_the_largest_weights() -> None:
    weights = np.full(1 << 20, 1 << 24, np.int32)
    assert values_of(integers.running_sums(weights)[:, -1:]) == [1 << 44]
    assert values_of(integers.total(-weights[None])) == [-(1 << 44)]


@quick
@given(st.integers(0, 2**30 - 1), st.integers(1, 30))
def test_shifts_round_to_even(value: int, shift: int) -> None:
    found = integers.shift_to_even(np.array([value], np.int32), shift)
    assert found[0] == round(Fraction(value, 2**shift))


edges = st.sampled_from([e for e in EDGES if (e >> 23) & 0xFF != 0xFF])
finite_bits = st.one_of(edges, st.integers(0, 2**32 - 1).filter(lambda b: (b >> 23) & 255 != 255))
vectors = st.lists(finite_bits, min_size=1, max_size=12)


def array_of(patterns: list[int]) -> npt.NDArray[np.float32]:
    """Bits as float32."""
    return np.array(patterns, np.uint32).view(np.float32)


@quick
@given(vectors, st.sampled_from([2, 3]), st.integers(0, 3))
def test_fixing(patterns: list[int], digits: int, above: int) -> None:
    x = array_of(patterns)
    own, finite = fixing.exponents(x.view(np.int32)[None])
    kept = [Fraction(float(v)) if abs(v) >= 2.0**-126 else Fraction(0) for v in x]
    assert finite.all()
    assert all(abs(v) < Fraction(2) ** int(own[0]) for v in kept)
    assert own[0] == -126 or any(abs(v) >= Fraction(2) ** (int(own[0]) - 1) for v in kept)
    exponent = own + np.int32(above)
    numbers = fixing.whole_numbers(x.view(np.int32)[None], exponent, finite, digits)
    unit = Fraction(2) ** (8 * digits - 2 - int(exponent[0]))
    assert numbers[0].tolist() == [round(v * unit) for v in kept]
    planes = fixing.cut(numbers, digits)
    assert planes.dtype == np.int8
    assert sum(planes[i].astype(int) * 256**i for i in range(digits))[0].tolist() == (
        numbers[0].tolist()
    )
    assert abs(planes[-1].astype(int)).max() <= 64


@quick
@given(st.integers(1, 2500), st.sampled_from([2, 3]), st.integers(0, 2**32))
def test_sums_of_products(length: int, digits: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    x = random.choice([-(2**22), 2**22, 4161408, 12345, -1, 0], (2, length)).astype(np.int32)
    top = 2 ** (8 * digits - 2)
    y = random.choice([-top, top, top - 129, -77, 1], (3, length)).astype(np.int32)
    number = fixing.sums(fixing.cut(x, 3), fixing.cut(y, digits))
    wanted = x.astype(object) @ y.T.astype(object)
    assert values_of(number.reshape(4, -1)) == wanted.flatten().tolist()
    squares = values_of(fixing.square_sums(fixing.cut(x, 3)))
    assert squares == (x.astype(object) ** 2).sum(-1).tolist()


# --- floats ---


@quick
@given(st.lists(st.tuples(finite_bits, finite_bits), min_size=1, max_size=20))
def test_division(pairs: list[tuple[int, int]]) -> None:
    a, b = (array_of([pair[i] for pair in pairs]) for i in (0, 1))
    for found, over, under in zip(floats.divide(a, b), a.tolist(), b.tolist(), strict=True):
        if under:
            assert found == nearest(Fraction(over) / Fraction(under))
        else:
            assert np.isinf(found) if over else np.isnan(found)


@quick
@given(st.lists(finite_bits.map(lambda b: b & 0x7FFFFFFF), min_size=1, max_size=20))
def test_roots(patterns: list[int]) -> None:
    x = array_of(patterns)
    for root, value in zip(floats.square_root(x), x.tolist(), strict=True):
        low, high = (
            (Fraction(float(root)) + Fraction(float(np.nextafter(root, side)))) / 2
            for side in (np.float32(-1), np.float32(np.inf))
        )
        assert root == value == 0 or low**2 < Fraction(value) < high**2


def test_division_and_roots_of_all_kinds_of_numbers() -> None:
    random = np.random.default_rng(0)
    special = np.array([*EDGES, *NOT_FINITE], np.uint32)
    a, b = (
        np.concatenate((random.integers(0, 1 << 32, 200_000, np.uint32), special, special[::k]))
        for k in (1, -1)
    )
    a, b = np.concatenate((a, np.repeat(special, 28))), np.concatenate((b, np.tile(special, 28)))
    x, y = a[: len(b)].view(np.float32), b[: len(a)].view(np.float32)
    with np.errstate(all="ignore"):  # numpy's float32 division and root are IEEE 754's
        wanted = [x / y, np.sqrt(x)]
    for found, exact in zip((floats.divide(x, y), floats.square_root(x)), wanted, strict=True):
        same = found.view(np.int32) == exact.view(np.int32)
        assert (same | (np.isnan(found) & np.isnan(exact))).all()


@quick
@given(st.lists(finite_bits, min_size=1, max_size=20), st.integers(-300, 300))
def test_scaling(patterns: list[int], exponent: int) -> None:
    x = array_of(patterns)
    for found, value in zip(floats.scaled(x, np.int32(exponent)), x.tolist(), strict=True):
        exact = Fraction(value) * Fraction(2) ** exponent
        assert found == (nearest(exact) if abs(exact) >= Fraction(2) ** -126 else 0)


def test_rounding_to_bfloat16() -> None:
    upper = torch.arange(1 << 16, dtype=torch.int32) << 16
    for lower in (0x0000, 0x0001, 0x7FFF, 0x8000, 0x8001, 0xFFFF):
        x = (upper | lower).view(torch.float32)
        x = x[~x.isnan()]
        assert torch.equal(bits(arrays.tensor_of(x.numpy(), torch.bfloat16)), bits(x.bfloat16()))
    nan = arrays.tensor_of(array_of([0x7FC00000]), torch.bfloat16)
    assert bits(nan).tolist() == [0x7FC0]
