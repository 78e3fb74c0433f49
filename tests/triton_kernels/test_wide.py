"""Numbers of two limbs, interpreted, against Python's integers."""

import random

import pytest
import torch
from torch import Tensor

from glm5_hal.backends.torch_triton.backend import missing_triton

# needs the extra [triton], which `nox` has; the reason names what is missing
if missing := missing_triton():
    pytest.skip(missing, allow_module_level=True)
from interpreted import runtime

from glm5_hal import Numerics

pytestmark = [  # of the interpreter's arrays
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

LOW = 1 << 30
LARGEST = (1 << 61) - (1 << 44)
"""Of 2^44 * K for K < 2^17."""
BLOCK = 4096


@pytest.fixture(scope="module", autouse=True)
def interpreter() -> None:
    runtime(Numerics.EXACT, "large")  # from here on kernels are interpreted


def words(values: list[int]) -> Tensor:
    return torch.tensor(values, dtype=torch.int32)


def limbs(values: list[int]) -> tuple[Tensor, Tensor]:
    return words([v >> 30 for v in values]), words([v & (LOW - 1) for v in values])


def numbers(high: Tensor, low: Tensor) -> list[int]:
    assert bool(((low >= 0) & (low < LOW)).all())
    return [int(a) * LOW + int(b) for a, b in zip(high, low, strict=True)]


def drawn(seed: int, least: int, most: int, edges: tuple[int, ...] = ()) -> list[int]:
    """BLOCK integers of every length between two bounds, the bounds among them."""
    made = random.Random(seed)
    found = [least, most, 0, *edges]
    while len(found) < BLOCK:
        length = made.randint(1, max(-least, most).bit_length())
        value = made.getrandbits(length) * (made.choice((-1, 1)) if least < 0 else 1)
        found.append(min(max(value, least), most))
    return found


def empty(count: int = BLOCK, parts: int = 2) -> tuple[Tensor, ...]:
    return tuple(torch.full((count,), -1, dtype=torch.int32) for _ in range(parts))


def near_halves(seed: int) -> list[int]:
    """Integers at and beside the midpoints of float32, and beside powers of two."""
    made = random.Random(seed)
    found = []
    for _ in range(BLOCK // 2):
        length = made.randint(25, 61)
        lost = length - 24
        kept = made.choice((made.getrandbits(24) | 1 << 23, (1 << 24) - 1, 1 << 23))
        value = (kept << lost) + (1 << (lost - 1)) + made.choice((-1, 0, 1))
        value = min(value, LARGEST)
        found += [value, -value]
    return found


@pytest.mark.parametrize(
    "values", [drawn(1, -LARGEST, LARGEST, (1, -1, LOW - 1, LOW, -LOW)), near_halves(2)]
)
def test_a_number_becomes_the_nearest_float(values: list[int]) -> None:
    from wide_kernels import float_kernel

    out = torch.full((BLOCK,), torch.nan)
    float_kernel[(1,)](*limbs(values), out, block=BLOCK)
    wanted = torch.tensor(values).float()
    assert torch.equal(out.view(torch.int32), wanted.view(torch.int32))


def test_sums_of_digit_products_are_joined() -> None:
    from wide_kernels import joined_kernel

    most = (1 << 29, 1 << 30, 1 << 30, 1 << 30, 1 << 27)
    sums = [drawn(place, -bound, bound) for place, bound in enumerate(most)]
    found = empty()
    joined_kernel[(1,)](words([s for row in sums for s in row]), *found, block=BLOCK)
    rows = zip(*sums, strict=True)
    assert numbers(*found) == [sum(s << (8 * i) for i, s in enumerate(row)) for row in rows]


def test_numbers_are_added_and_compared() -> None:
    from wide_kernels import added_kernel

    half = LARGEST // 2
    a, b = drawn(3, -half, half), drawn(4, -half, half)
    b[: BLOCK // 4] = a[: BLOCK // 4]
    b[BLOCK // 8 : BLOCK // 4] = [v + 1 for v in b[BLOCK // 8 : BLOCK // 4]]
    high, low, reaches = empty(parts=3)
    added_kernel[(1,)](*limbs(a), *limbs(b), high, low, reaches, block=BLOCK)
    assert numbers(high, low) == [x + y for x, y in zip(a, b, strict=True)]
    assert reaches.tolist() == [int(x >= y) for x, y in zip(a, b, strict=True)]


@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("fill", [None, -1, 1])
def test_sums_of_a_whole_row_are_exact(squared: bool, fill: int | None) -> None:
    from wide_kernels import summed_kernel

    most, rows, width = (1 << 22 if squared else 1 << 24), 2, 1 << 17
    x = torch.randint(-most, most + 1, (rows, width), generator=torch.Generator().manual_seed(5))
    if fill is not None:
        x[0] = fill * most
        x[0, 0] = 0  # the profile ends at 2^17 - 1 products
    found = empty(rows)
    summed_kernel[(1,)](x.int(), *found, squared=squared, rows=rows, block=width)
    assert numbers(*found) == (x.square() if squared else x).sum(1).tolist()


def test_numbers_of_many_lanes_are_added() -> None:
    from wide_kernels import lanes_kernel

    rows, lanes = 2, 1 << 15
    made = random.Random(6)
    values = [made.getrandbits(45) for _ in range(lanes)] + [(1 << 45) - 1] * lanes
    found = empty(rows)
    lanes_kernel[(1,)](*limbs(values), *found, rows=rows, block=lanes)
    assert numbers(*found) == [sum(values[:lanes]), sum(values[lanes:])]


def test_products_with_a_length_are_exact() -> None:
    from wide_kernels import multiplied_kernel

    x, factor = drawn(7, -(1 << 24), 1 << 24), drawn(8, 0, 1 << 17)
    found = empty()
    multiplied_kernel[(1,)](words(x), words(factor), *found, block=BLOCK)
    assert numbers(*found) == [a * b for a, b in zip(x, factor, strict=True)]


@pytest.mark.parametrize("places", [24, 25])
def test_parts_of_a_number_are_rounded_down(places: int) -> None:
    from wide_kernels import part_kernel

    values, factors = drawn(9, 0, (1 << 60) - 1), drawn(10, 0, 1 << places)
    values[3], factors[3] = (1 << 60) - 1, 1 << places
    high, low, left = empty(parts=3)
    arguments = (*limbs(values), words(factors), high, low, left)
    part_kernel[(1,)](*arguments, places=places, block=BLOCK)
    wanted = [divmod(v * f, 1 << places) for v, f in zip(values, factors, strict=True)]
    assert numbers(high, low) == [whole for whole, _ in wanted]
    assert left.tolist() == [int(rest > 0) for _, rest in wanted]


def test_a_long_division_ends_with_quotient_and_remainder() -> None:
    from wide_kernels import divided_kernel

    divisors = [max(v, 1) for v in drawn(11, 0, (1 << 26) - 1)]
    made = random.Random(12)
    values = [made.randrange(min(d << 31, 1 << 60)) for d in divisors]
    quotient, remainder = empty()
    divided_kernel[(1,)](*limbs(values), words(divisors), quotient, remainder, block=BLOCK)
    wanted = [divmod(v, d) for v, d in zip(values, divisors, strict=True)]
    assert quotient.tolist() == [whole for whole, _ in wanted]
    assert remainder.tolist() == [rest for _, rest in wanted]
