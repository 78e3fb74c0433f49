"""The exact profile's reference functions, against integers, fractions and true function values."""

import importlib.util
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from types import ModuleType

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from wild_calls import EDGES

from glm5_hal import exact
from glm5_hal.errors import ContractError

quick = settings(max_examples=150, deadline=None)

finite_bits = st.one_of(
    st.sampled_from(EDGES),
    st.integers(0, 2**32 - 1).filter(lambda b: (b >> 23) & 0xFF != 0xFF),
    st.floats(-4, 4, width=32).map(lambda v: int(np.float32(v).view(np.uint32))),
)
positive_bits = finite_bits.map(lambda b: b & 0x7FFFFFFF)


def floats(patterns: list[int]) -> Tensor:
    """Bits as float32."""
    return torch.from_numpy(np.array(patterns, np.uint32).view(np.float32))


def bits(x: Tensor) -> list[int]:
    """float32 as bits."""
    return [pattern & 0xFFFFFFFF for pattern in x.view(torch.int32).flatten().tolist()]


def to_24_bits(value: Fraction) -> Fraction:
    """The nearest number of 24 significant bits, ties to even; no limit to the exponent."""
    if not value:
        return value
    exponent = abs(value).numerator.bit_length() - value.denominator.bit_length() - 25
    while abs(value) >= Fraction(2) ** (exponent + 24):
        exponent += 1
    return round(value / Fraction(2) ** exponent) * Fraction(2) ** exponent


def to_float32(value: Fraction) -> float:
    """The nearest float32, as IEEE 754 says: subnormal numbers and Inf included."""
    if abs(value) < Fraction(2) ** -126:
        return float(round(value * 2**149) * Fraction(2) ** -149)
    near = to_24_bits(value)
    return float(near) if abs(near) < 2**128 else float("inf") * (1 if near > 0 else -1)


def written(value: Fraction) -> float:
    """EXACT-WRITE-1 of a value of 24 bits."""
    return 0.0 if abs(value) < Fraction(2) ** -100 else to_float32(value)


def numbers_of(x: Tensor, digits: int) -> tuple[list[int], int]:
    """EXACT-FIXED-1 and -2 of one vector in Python integers: (X, e)."""
    values = [Fraction(v) if abs(v) >= 2.0**-126 else Fraction(0) for v in x.tolist()]
    exponent = -126
    while any(abs(v) >= Fraction(2) ** exponent for v in values):
        exponent += 1
    return [round(v * Fraction(2) ** (8 * digits - 2 - exponent)) for v in values], exponent


vectors = st.lists(finite_bits, min_size=1, max_size=12)


@quick
@given(vectors, st.sampled_from([2, 3]))
def test_fixed(patterns: list[int], digits: int) -> None:
    found = exact.fixed(floats(patterns), digits)
    wanted, exponent = numbers_of(floats(patterns), digits)
    assert (found.integers.tolist(), found.exponent.item()) == (wanted, exponent)
    assert found.finite
    assert max(map(abs, wanted)) <= 2**found.bits


@quick
@given(vectors, st.sampled_from([2, 3]), st.integers(0, 40))
def test_fixed_with_a_longer_vectors_exponent(patterns: list[int], digits: int, above: int) -> None:
    _, exponent = numbers_of(floats(patterns), digits)
    shared = torch.tensor(exponent + above)
    found = exact.fixed(floats(patterns), digits, shared)
    unit = Fraction(2) ** (8 * digits - 2 - exponent - above)
    kept = [Fraction(v) if abs(v) >= 2.0**-126 else Fraction(0) for v in floats(patterns).tolist()]
    assert found.integers.tolist() == [round(v * unit) for v in kept]
    assert found.exponent.item() == exponent + above


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_a_vector_that_is_not_finite(bad: float) -> None:
    found = exact.fixed(torch.tensor([[1.0, bad], [1.0, 2.0]]), 3)
    assert found.finite.tolist() == [False, True]
    assert found.integers[0].tolist() == [0, 0]
    product = exact.contract(found, found)
    assert bits(product)[:3] == [0x7FC00000] * 3
    assert product[1, 1] == 5


@quick
@given(
    st.integers(1, 10).flatmap(
        lambda k: st.tuples(*[st.lists(finite_bits, min_size=k, max_size=k)] * 2)
    ),
    st.sampled_from([2, 3]),
)
def test_contract(pair: tuple[list[int], list[int]], digits: int) -> None:
    x, y = map(floats, pair)
    (a, e), (b, f) = numbers_of(x, 3), numbers_of(y, digits)
    found = exact.contract(exact.fixed(x[None], 3), exact.fixed(y[None], digits))
    whole = to_24_bits(Fraction(sum(p * q for p, q in zip(a, b, strict=True))))
    assert found.item() == written(whole * Fraction(2) ** (e + f - 20 - 8 * digits))
    assert bits(found) != [0x80000000]


@pytest.mark.parametrize("digits", [2, 3])
def test_the_longest_sums_are_exact(digits: int) -> None:
    random = np.random.default_rng(digits)
    top = 2 ** (8 * digits - 2)
    rows = [
        (random.choice([-limit, limit, limit - 1, 1], (2, exact.LONGEST)), limit)
        for limit in (2**22, top)
    ]
    x, y = (
        exact.Fixed(
            torch.from_numpy(row).double(),
            torch.zeros(2, dtype=torch.int64),
            torch.ones(2, dtype=torch.bool),
            count,
        )
        for (row, _), count in zip(rows, (3, digits), strict=True)
    )
    (a, _), (b, _) = rows
    assert exact.exact_sums(x, y).tolist() == (a.astype(object) @ b.T.astype(object)).tolist()
    assert exact.square_sum(x).tolist() == (a.astype(object) ** 2).sum(-1).tolist()
    longer = exact.fixed(torch.ones(1, exact.LONGEST + 1), 3)
    for refused in (lambda: exact.contract(longer, longer), lambda: exact.square_sum(longer)):
        with pytest.raises(ContractError, match="131,071"):
            refused()


@pytest.mark.parametrize(
    ("function", "threshold"),
    [(exact.read, 2.0**-50), (lambda x: exact.write(x, torch.float32), 2.0**-100)],
    ids=["read", "write"],
)
def test_thresholds(function: Callable[[Tensor], Tensor], threshold: float) -> None:
    edge = torch.tensor(threshold)
    below, above = (torch.nextafter(edge, torch.tensor(to)) for to in (0.0, 1.0))
    x = torch.stack((edge, -edge, above, below, -below, -torch.zeros(()), torch.tensor(1e-45)))
    wanted = [threshold, -threshold, above.item(), 0.0, 0.0, 0.0, 0.0]
    assert bits(function(x)) == bits(torch.tensor(wanted))


def test_written_nan_and_overflow() -> None:
    nan = floats([0x7FC00000, 0xFFC00001, 0x7F800001])
    assert bits(exact.write(nan, torch.float32)) == [0x7FC00000] * 3
    wide = torch.tensor([2.0**128, -(2.0**200), 2.0**127], dtype=torch.float64)
    assert exact.write(wide, torch.float32).tolist() == [torch.inf, -torch.inf, 2.0**127]


@pytest.mark.parametrize("count", [1, 40])
def test_written_nan_in_bfloat16(count: int) -> None:
    found = exact.write(torch.full((count,), torch.nan), torch.bfloat16)
    assert found.view(torch.int16).tolist() == [0x7FC0] * count


def test_powers_of_two() -> None:
    exponents = torch.arange(-1022, 1024)
    assert exact.power(exponents).tolist() == [2.0**e for e in exponents.tolist()]


@quick
@given(st.lists(st.tuples(finite_bits, finite_bits), min_size=1, max_size=20))
def test_divide(pairs: list[tuple[int, int]]) -> None:
    a, b = (floats([pair[i] for pair in pairs]) for i in (0, 1))
    quotients = exact.divide(a, b).tolist()
    for found, over, under in zip(quotients, a.tolist(), b.tolist(), strict=True):
        if under:
            assert found == to_float32(Fraction(over) / Fraction(under))


def _is_root(root: float, value: float) -> bool:
    """Whether no float32 is nearer to the root: by squares of the points halfway to the next."""
    low, high = (
        (Fraction(root) + Fraction(float(np.nextafter(np.float32(root), np.float32(side))))) / 2
        for side in (-1.0, np.inf)
    )
    return low**2 < Fraction(value) < high**2


@quick
@given(st.lists(positive_bits.filter(bool), min_size=1, max_size=20))
def test_square_root(patterns: list[int]) -> None:
    x = floats(patterns)
    for root, value in zip(exact.square_root(x).tolist(), x.tolist(), strict=True):
        assert _is_root(root, value)


@pytest.mark.parametrize("count", [3, 8, 1000])
def test_square_root_at_any_length(count: int) -> None:
    x = torch.from_numpy(np.random.default_rng(0).random(3000, np.float32) * 4)
    for part in x.split(count):
        roots = exact.square_root(part).tolist()
        assert all(_is_root(r, v) for r, v in zip(roots, part.tolist(), strict=True) if v)


# --- accuracy ---


def _measure() -> ModuleType:
    """docs/exact_accuracy.py as a module."""
    path = Path(__file__).parents[2] / "docs" / "exact_accuracy.py"
    spec = importlib.util.spec_from_file_location("exact_accuracy", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MEASURE = _measure()
TRUE = {
    "exp": mpmath.exp,
    "exp2_fraction": lambda x: mpmath.power(2, x),
    "sigmoid": lambda x: 1 / (1 + mpmath.exp(-x)),
}
WORST = {"exp": (0.88, 1.11), "exp2_fraction": (0.80, 1.03), "sigmoid": (1.92, 2.52)}
"""Measured in units of the last place and rounded up: over all bfloat16, over the sweeps."""
functions = pytest.mark.parametrize("function", MEASURE.FUNCTIONS, ids=lambda f: f.name)


@functions
def test_accuracy_at_every_bfloat16(function: Callable[..., object]) -> None:
    error, place = MEASURE.worst(function, function.all_bfloat16())
    assert WORST[function.name][0] - 0.01 < error <= WORST[function.name][0], place


@functions
def test_accuracy_over_float32(function: Callable[..., object]) -> None:
    sweeps = (
        function.sweep(MEASURE.STEP),
        function.sweep(MEASURE.DENSE_STEP, MEASURE.DENSE_FROM),
    )
    error = max(MEASURE.worst(function, x)[0] for x in sweeps)
    assert WORST[function.name][1] - 0.01 < error <= WORST[function.name][1]


@functions
def test_float64_is_good_enough_to_judge(function: Callable[..., object]) -> None:
    x = function.sweep(4099 * 977)
    wanted = function.exact(x.astype(np.float64))
    with mpmath.workdps(40):
        for value, near in zip(x.tolist(), wanted.tolist(), strict=True):
            true = TRUE[function.name](mpmath.mpf(value))
            assert abs(near / true - 1) < 2.0**-50
    assert len(x) > 250


def test_exp_and_sigmoid_beyond_the_domain() -> None:
    far = torch.tensor([-80.0000076, -1e30, -torch.inf])
    assert bits(exact.exp(far)) == [0, 0, 0]
    assert exact.exp(torch.tensor([-80.0])) > 0
    assert exact.exp(torch.tensor([torch.nan])).isnan()
    x = torch.tensor([-torch.inf, -1e30, -0.0, 0.0, 17.5, 1e30, torch.inf])
    assert exact.sigmoid(x).tolist() == [0, 0, 0.5, 0.5, 1, 1, 1]
    assert exact.sigmoid(torch.tensor([torch.nan])).isnan()
