"""What exact sums are made of, on inputs where one kind of mistake each changes a byte.

All of them go through linear, whose operands can be chosen integer by integer: a row that holds
1.0 has the exponent 1, so that its values are multiples of 2^-21 (3 digits) or 2^-13 (2 digits).
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from glm5_hal import WeightRole
from glm5_hal.conformance.call import Call, WeightValue
from glm5_hal.conformance.case import FUNCTION, Case
from glm5_hal.conformance.data import integers
from glm5_hal.conformance.families.judging import in_exact, recorded

Build = Callable[[], Call]

LARGEST = 1 << 22
"""|X| of three digits that are as large as can be."""


def cases() -> Iterator[Case]:
    """Fixing, sums, roundings, and what is not finite."""
    fp32, bf16 = torch.float32, torch.bfloat16
    yield block("EXACT-FIXED-1", "linear", "ties", _ties, "round half to even, not away or down")
    yield block("EXACT-FIXED-1", "linear", "ties-2-digits", _ties_of_two_digits, "as above")
    yield block("EXACT-FIXED-1", "linear", "largest", _largest, "an integer of 2^(8n-2): no clamp")
    yield block("EXACT-FIXED-1", "linear", "rows", _rows_apart, "an exponent a row, not a matrix")
    yield block("EXACT-FIXED-2", "linear", "subnormal", _subnormal, "subnormal values are zeros")
    yield block("EXACT-FIXED-2", "linear", "zeros", _zero_rows, "a row of zeros: 0 * 2^k, no NaN")
    for dtype, name in ((fp32, "3-digits"), (bf16, "2-digits")):
        build = _low_digits(dtype)
        yield block("EXACT-SUM-1", "linear", f"low-{name}", build, "the lowest digits' product")
        yield block("EXACT-SUM-1", "linear", f"edges-{name}", _edges(dtype), "digits -128 and 127")
        build = _cancelling(dtype)
        yield block("EXACT-SUM-1", "linear", f"cancel-{name}", build, "a sum in float32")
        build = _longest(dtype)
        yield block("EXACT-SUM-1", "linear", f"longest-{name}", build, "int32 wraps or saturates")
    yield block("EXACT-ROUND-1", "linear", "ties", _sum_ties(fp32), "one rounding, ties to even")
    yield block("EXACT-ROUND-1", "linear", "twice", _sum_ties(bf16), "float32 first, then bf16")
    yield block("EXACT-ROUND-1", "linear", "truncated", _random(fp32), "nearest, not truncation")
    yield block("EXACT-NAN-1", "linear", "not-finite", _not_finite(fp32), "0x7FC00000")
    yield block("EXACT-NAN-1", "linear", "not-finite-bf16", _not_finite(bf16), "0x7FC0")
    yield block("EXACT-NAN-1", "linear", "overflow", _overflow, "infinite, not the largest float")
    yield block("EXACT-WRITE-1", "linear", "small", _small_products, "below 2^-100, or -0")


def block(
    requirement: str, op: str, tag: str, build: Build, hint: str, *, slow: bool = False
) -> Case:
    """A case of a call that was made for one requirement."""
    case = Case(
        id=f"{requirement}/parity-{tag}/{op}",
        requirement=requirement,
        op=op,
        aspect=FUNCTION,
        relation="parity",
        check=recorded(build, hint),
        quick=not slow,
    )
    return in_exact(case)


def _call(x: Tensor, w: Tensor, out_dtype: torch.dtype | None = None) -> Call:
    weight = WeightValue(WeightRole.LINEAR, w)
    return Call("linear", {"x": x, "w": weight, "out_dtype": out_dtype})


def _units(values: Tensor, bits: int = 21) -> Tensor:
    """Integers in the units of a row that holds 1.0; exact in float32."""
    return (values.double() * 2.0**-bits).float()


def _ties() -> Call:
    """Halves between even and odd integers of either sign, against the identity."""
    steps = torch.arange(-32, 32)
    x = torch.zeros(4, 64)
    x[0] = _units(steps + 0.5)
    x[1] = _units(steps + 0.5 + 2.0**-8)
    x[2] = _units(steps + 0.5 - 2.0**-8)
    x[3] = _units(1000 * steps + 0.5)
    x[:, 0] = 1.0
    return _call(x, torch.eye(64))


def _ties_of_two_digits() -> Call:
    """As bfloat16 weights: odd multiples of half a unit of 2^-13."""
    halves = (2.0 * torch.arange(-32, 32) + 1) * 2.0**-14
    w = torch.zeros(64, 64)
    w[:, 0] = 1.0
    w[torch.arange(1, 64), torch.arange(1, 64)] = halves[1:]
    return _call(torch.eye(64), w.bfloat16(), torch.float32)


def _largest() -> Call:
    """Just below a power of two the integer rounds up to 2^22, in both operands."""
    below = torch.nextafter(torch.tensor(2.0), torch.tensor(0.0))
    x = torch.stack([below.expand(96), -below.expand(96), torch.full((96,), 1.5)])
    x[2, ::2] = -below
    return _call(x, torch.cat((x, torch.ones(1, 96))))


def _rows_apart() -> Call:
    """Rows a factor of 2^40 apart, some with one outlier: each keeps its own bits."""
    x = integers("blocks/rows", (32, 64), -LARGEST, LARGEST).float() * 2.0**-22
    x = x * 2.0 ** (40 * (torch.arange(32) % 3 - 1)).unsqueeze(1)
    x[::4, 5] *= 1000
    w = integers("blocks/columns", (16, 64), -LARGEST, LARGEST).float() * 2.0**-22
    return _call(x, w * 2.0 ** (20 * (torch.arange(16) % 3 - 1)).unsqueeze(1))


def _subnormal() -> Call:
    """Subnormal values alone, and beside the smallest normal one; the weight lifts them."""
    tiny = torch.finfo(torch.float32).tiny
    x = torch.zeros(4, 8)
    x[0] = tiny * 0.5
    x[1] = tiny * 0.75
    x[1, 0] = tiny
    x[2] = -tiny * (1 - 2.0**-23)
    x[2, 3] = 2 * tiny
    x[3] = tiny
    return _call(x, 2.0**100 * torch.eye(8))


def _zero_rows() -> Call:
    """Rows of +0 and -0 on either side, and against a row of huge values."""
    x = torch.zeros(4, 8)
    x[1] = -0.0
    x[2, 3] = 1.0
    x[3] = 3.0e38
    w = torch.zeros(5, 8)
    w[1] = -0.0
    w[2, 3] = -1.0
    w[3] = 3.0e38
    w[4, ::2] = -0.0
    return _call(x, w)


def _operands(x: Tensor, w: Tensor, dtype: torch.dtype) -> Call:
    """A call of integers: x of three digits, w of as many as its dtype has."""
    bits = 21 if dtype == torch.float32 else 13
    weight = _units(w, bits).to(dtype)
    assert torch.equal(weight.double() * 2.0**bits, w.double())
    return _call(_units(x), weight)


def _low_digits(dtype: torch.dtype) -> Build:
    """Everything but the product of the lowest digits cancels."""

    def build() -> Call:
        one = 1 << (21 if dtype == torch.float32 else 13)
        low = torch.arange(1, 65)
        x = torch.zeros(64, 3, dtype=torch.int64)
        x[:, 0], x[:, 1], x[:, 2] = 1 << 21, -(1 << 21), low
        w = torch.zeros(64, 3, dtype=torch.int64)
        w[:, 0], w[:, 1], w[:, 2] = one, one, low.flip(0)
        return _operands(x, w, dtype)

    return build


def _edges(dtype: torch.dtype) -> Build:
    """Integers around the ends of a digit: 127, 128, 129 and their like in each place."""

    def build() -> Call:
        low = torch.tensor([126, 127, 128, 129, 255, 256, 257])
        edges = torch.cat((low, 256 * low, 256 * low + 128, 256 * 127 + low))
        edges = edges[edges < 1 << 16]
        x = torch.cat((edges, -edges)).unsqueeze(1)
        x = torch.cat((torch.full_like(x, 1 << 21), x), 1)
        if dtype == torch.float32:
            w = x[:, :]
        else:
            few = torch.tensor([126, 127, 128, 130, 254, 255, 256, 258, 4064, 8128])
            w = torch.stack((torch.full((20,), 1 << 13), torch.cat((few, -few))), 1)
        return _operands(x, w, dtype)

    return build


def _cancelling(dtype: torch.dtype) -> Build:
    """Large terms of either sign in every second place; what is left has the low bits."""

    def build() -> Call:
        one = 1 << (21 if dtype == torch.float32 else 13)
        x = integers("blocks/cancel-x", (8, 512), -100_000, 100_000)
        x[:, 0:500:2] = (1 << 21) - x[:, 0:500:2].abs()
        x[:, 1:500:2] = x[:, 0:500:2]
        w = integers("blocks/cancel-w", (8, 512), -100, 100)
        w[:, 0:500:2], w[:, 1:500:2] = one, -one
        return _operands(x, w, dtype)

    return build


def _longest(dtype: torch.dtype) -> Build:
    """131,071 products of digits that are all -128, of one sign and of the other."""

    def build() -> Call:
        x = 64 * 65536 - 128 * 256 - 128
        w = x if dtype == torch.float32 else 64 * 256 - 128
        longest = (1 << 17) - 1
        rows = torch.full((2, longest), x * 2.0**-22)
        rows[1, ::2] = -rows[1, ::2]
        weight = torch.full((2, longest), w * (2.0**-22 if dtype == torch.float32 else 2.0**-14))
        weight[1] = -weight[1]
        return _call(rows, weight.to(dtype), torch.float32)

    return build


def _sum_ties(dtype: torch.dtype) -> Build:
    """Sums 2^42 + j halves of the last place, and one more or less than that.

    In bfloat16 the last place is that of its eight bits, and the one more is lost in float32.
    """

    def build() -> Call:
        half = 9 if dtype == torch.float32 else 17
        x = torch.tensor([[1 << 21, 1 << half, one] for one in (0, 1, -1)])
        w = torch.tensor(
            [[1 << 21, places << half, 1] for places in (1, 2, 3, 5, 7) if places << half < 1 << 21]
        )
        sign = torch.tensor([[1], [-1]])
        rows = (x * sign.unsqueeze(1)).flatten(0, 1)
        return _call(_units(rows).to(dtype), _units(w))

    return build


def _random(dtype: torch.dtype) -> Build:
    """Sums of all sizes, whose roundings go up and down."""

    def build() -> Call:
        x = integers("blocks/random-x", (33, 128), -LARGEST, LARGEST).float()
        w = integers("blocks/random-w", (32, 128), -LARGEST, LARGEST).float()
        return _call(x.to(dtype), w)

    return build


def _not_finite(dtype: torch.dtype) -> Build:
    """NaN with bits of their own and infinities, against rows that hold zeros there."""

    def build() -> Call:
        odd = torch.tensor([0x7FC54321, -0x3E0000, 0x7F800000, -0x800000], dtype=torch.int32)
        x = torch.ones(6, 8)
        x[:4, 2] = odd.view(torch.float32)
        x[4] = 0.0
        w = torch.ones(6, 8)
        w[1] = 0.0
        w[2, 2] = 0.0
        w[3:5, 5] = odd[1:3].view(torch.float32)
        w[5] = -1.0
        return _call(x.to(dtype), w.to(dtype))

    return build


def _overflow() -> Call:
    """Products around the largest float32."""
    x = torch.tensor([[3.0e38, 0.0], [2.0**127, 2.0**127], [2.0**64, 0.0], [1.0, 1.0]])
    w = torch.tensor([[3.0e38, 0.0], [1.0, 1.0], [-(2.0**64), 0.0], [2.0**127, -(2.0**127)]])
    return _call(x, w)


def _small_products() -> Call:
    """Results around 2^-100 and far below, of either sign; exact zeros of either sign."""
    x = 2.0**-50 * torch.tensor([[1.0, 0.0], [1 - 2.0**-24, 0.0], [2.0**-30, 0.0], [1.0, 1.0]])
    w = 2.0**-50 * torch.tensor([[1.0, 0.0], [-1.0, 0.0], [1 + 2.0**-23, 0.0], [1.0, -1.0]])
    return _call(torch.cat((x, -x)), w)
