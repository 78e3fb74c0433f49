"""Kernels with one fault each: the proof that every rule fires, and what a front end refuses."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import triton
import triton.language as tl

from glm5_hal import Numerics

REFUSED = "refused"
"""In place of a rule: the front end itself must not take the kernel."""


@dataclass(frozen=True)
class BadKernel:
    """A kernel and the rule that it breaks; the other fields as in `audit.compiler.Kernel`.

    Attributes:
        breaks: id of the rule, or `REFUSED`.
        also: rules that it may break besides.
        label: what is wrong, where it is not the function.
    """

    function: Any
    breaks: str
    signature: Mapping[str, str]
    constexprs: Mapping[str, Any]
    options: Mapping[str, Any] = field(default_factory=lambda: {"enable_fp_fusion": False})
    profile: Numerics = Numerics.EXACT
    op: str = "none"
    aligned: tuple[str, ...] = ()
    grid: tuple[int, int, int] = (32768, 1, 1)
    promised: int | None = None
    also: tuple[str, ...] = ()
    label: str = ""

    @property
    def name(self) -> str:
        """Its label, or its function's."""
        return f"bad.{self.label or self.function.__name__}"


@triton.jit
def copied(first, x, y, out, block: tl.constexpr):
    i = (tl.program_id(0) + first) * block + tl.arange(0, block)
    tl.store(out + i, tl.load(x + i))


@triton.jit
def crossed(first, x, y, out, block: tl.constexpr):
    i = (tl.program_id(1) + first) * block + tl.arange(0, block)
    tl.store(out + i, tl.load(x + i))


@triton.jit
def narrowed(first, x, y, out, block: tl.constexpr, precision: tl.constexpr):
    i = tl.arange(0, block)
    place = i[:, None] * block + i[None, :]
    found = tl.dot(tl.load(x + place), tl.load(y + place), input_precision=precision)
    tl.store(out + place, found)


@triton.jit
def doubled(first, x, y, out, block: tl.constexpr):
    i = (tl.program_id(0) + first) * block + tl.arange(0, block)
    tl.store(out + i, tl.load(x + i) + tl.load(y + i))


@triton.jit
def eighth(first, x, y, out, block: tl.constexpr):
    i = (tl.program_id(0) + first) * block + tl.arange(0, block)
    tl.store(out + i, tl.load(x + i).to(tl.float8e5).to(tl.float32))


@triton.jit
def widened(first, x, y, out, block: tl.constexpr):
    i = (tl.program_id(0) + first) * block + tl.arange(0, block)
    wide = tl.load(x + i).to(tl.float64)
    tl.store(out + i, (wide * wide).to(tl.float32))


@triton.jit
def left_over(first, x, y, out, block: tl.constexpr):
    i = (tl.program_id(0) + first) * block + tl.arange(0, block)
    tl.store(out + i, tl.load(x + i) % tl.load(y + i))


@triton.jit
def chosen(first, x, y, out, block: tl.constexpr):
    i = (tl.program_id(0) + first) * block + tl.arange(0, block)
    value = tl.load(x + i)
    tl.store(out + i, tl.where(value > 7, value, tl.load(y + i)))


@triton.jit
def counted(first, x, y, out, block: tl.constexpr):
    i = (tl.program_id(0) + first) * block + tl.arange(0, block)
    tl.atomic_add(out + i, tl.load(x + i))


@triton.jit
def looped(first, x, y, out, block: tl.constexpr):
    i = (tl.program_id(0) + first) * block + tl.arange(0, block)
    for k in range(0, first):
        tl.atomic_or(out + i + k, tl.load(x + i))


@triton.jit
def sorted_rows(first, x, y, out, block: tl.constexpr):
    i = (tl.program_id(0) + first) * block + tl.arange(0, block)
    tl.store(out + i, tl.sort(tl.load(x + i)))


@triton.jit
def turned(first, x, y, out, block: tl.constexpr):
    i = tl.arange(0, block)
    at = i[:, None, None] * block * block + i[None, :, None] * block + i[None, None, :]
    tl.store(out + at, tl.trans(tl.load(x + at), 2, 1, 0))


@triton.jit
def fused(first, x, y, out, block: tl.constexpr):
    i = (tl.program_id(0) + first) * block + tl.arange(0, block)
    tl.store(out + i, tl.fma(tl.load(x + i), tl.load(y + i), tl.load(out + i)))


@triton.jit
def divided(first, x, y, out, block: tl.constexpr):
    i = (tl.program_id(0) + first) * block + tl.arange(0, block)
    tl.store(out + i, tl.load(x + i) / tl.load(y + i))


@triton.jit
def rooted(first, x, y, out, block: tl.constexpr):
    i = (tl.program_id(0) + first) * block + tl.arange(0, block)
    tl.store(out + i, tl.rsqrt(tl.load(x + i)))


@triton.jit
def exponential(first, x, y, out, block: tl.constexpr):
    i = (tl.program_id(0) + first) * block + tl.arange(0, block)
    tl.store(out + i, tl.exp2(tl.load(x + i)))


@triton.jit
def unordered(first, x, y, out, block: tl.constexpr):
    i = tl.program_id(0) + first
    tl.store(out + i, tl.sum(tl.load(x + i * block + tl.arange(0, block))))


@triton.jit
def running(first, x, y, out, block: tl.constexpr):
    i = (tl.program_id(0) + first) * block + tl.arange(0, block)
    tl.store(out + i, tl.cumsum(tl.load(x + i), 0))


@triton.jit
def greedy(first, x, y, out, block: tl.constexpr):
    """Four tensors of 64 KiB at once."""
    i = (tl.program_id(0) + first) * block + tl.arange(0, block)
    a = tl.load(x + i)
    b = tl.load(y + i)
    c = a * b
    d = a + b
    total = tl.sum(a, 0) + tl.sum(b, 0) + tl.sum(c, 0) + tl.sum(d, 0)
    tl.store(out + i, a * total)
    tl.store(y + i, b * total)
    tl.store(x + i, c * total + d)


def _types(kind: str, out: str = "") -> dict[str, str]:
    pointer = f"*{kind}"
    tensors = {"x": pointer, "y": pointer, "out": f"*{out or kind}"}
    return {"first": "i32", **tensors, "block": "constexpr"}


_FLOATS, _WORDS, _LONG = _types("fp32"), _types("i32"), _types("i64")
_BLOCK = {"block": 256}
_FAST: dict[str, Any] = {"profile": Numerics.FAST}


def _narrowed(precision: str, breaks: str) -> BadKernel:
    signature, sizes = {**_FLOATS, "precision": "constexpr"}, {"block": 32, "precision": precision}
    return BadKernel(narrowed, breaks, signature, sizes, **_FAST, label=f"narrowed_to_{precision}")


BAD = (
    BadKernel(copied, "LOWER-GRID-1", _FLOATS, _BLOCK, grid=(65536, 1, 1), label="wide"),
    BadKernel(copied, "LOWER-GRID-1", _FLOATS, _BLOCK, grid=(64, 2, 1), label="tall"),
    BadKernel(crossed, "LOWER-GRID-1", _FLOATS, _BLOCK),
    BadKernel(doubled, "LOWER-TYPE-1", _types("fp64"), _BLOCK),
    BadKernel(eighth, REFUSED, _FLOATS, _BLOCK),
    BadKernel(widened, "LOWER-TYPE-1", _FLOATS, _BLOCK),
    BadKernel(left_over, "LOWER-OPERATION-1", _LONG, _BLOCK, label="long_remainder"),
    BadKernel(chosen, "LOWER-OPERATION-1", _LONG, _BLOCK, label="long_choice"),
    BadKernel(counted, "LOWER-OPERATION-1", _LONG, _BLOCK, label="long_counter"),
    BadKernel(looped, "LOWER-ATOMIC-1", _WORDS, _BLOCK),
    BadKernel(sorted_rows, "LOWER-CALL-1", _FLOATS, _BLOCK),
    BadKernel(turned, "LOWER-PERMUTE-1", _FLOATS, {"block": 16}),
    _narrowed("tf32", REFUSED),
    _narrowed("hf32", "LOWER-PRECISION-1"),
    BadKernel(fused, "LOWER-FMA-1", _FLOATS, _BLOCK),
    BadKernel(divided, "LOWER-DIVIDE-1", _FLOATS, _BLOCK),
    BadKernel(rooted, "LOWER-DIVIDE-1", _FLOATS, _BLOCK),
    BadKernel(exponential, "LOWER-FUNCTION-1", _FLOATS, _BLOCK),
    BadKernel(unordered, "LOWER-SUM-1", _FLOATS, _BLOCK),
    BadKernel(running, "LOWER-SUM-1", _FLOATS, _BLOCK),
    BadKernel(greedy, "LOWER-MEMORY-1", _FLOATS, {"block": 16384}, **_FAST),
)
"""Every rule but LOWER-INT8-1 is broken by one: no front end is known that widens int8 products."""
