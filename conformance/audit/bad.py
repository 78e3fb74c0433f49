"""Kernels with one fault each: the proof that every rule of the audit fires."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import triton
import triton.language as tl

from glm5_hal import Numerics


@dataclass(frozen=True)
class BadKernel:
    """A kernel and the rule that it breaks; fields as in `compiler.Kernel`.

    Attributes:
        breaks: id of the rule.
        targets: for which the fault shows.
    """

    function: Any
    breaks: str
    signature: Mapping[str, str]
    constexprs: Mapping[str, Any]
    targets: tuple[str, ...] = ("sm_80", "sm_90", "gfx942")
    options: Mapping[str, Any] = field(default_factory=lambda: {"enable_fp_fusion": False})
    profile: Numerics = Numerics.EXACT
    op: str = "none"
    aligned: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Of the function."""
        return f"bad.{self.function.__name__}"


@triton.jit
def contracted(x, y, out, block: tl.constexpr):
    i = tl.program_id(0) * block + tl.arange(0, block)
    tl.store(out + i, tl.load(x + i) * tl.load(y + i) + tl.load(out + i))


@triton.jit
def fused(x, y, out, block: tl.constexpr):
    i = tl.program_id(0) * block + tl.arange(0, block)
    tl.store(out + i, tl.fma(tl.load(x + i), tl.load(y + i), tl.load(out + i)))


@triton.jit
def divided(x, y, out, block: tl.constexpr):
    i = tl.program_id(0) * block + tl.arange(0, block)
    tl.store(out + i, tl.load(x + i) / tl.load(y + i))


@triton.jit
def rooted(x, y, out, block: tl.constexpr):
    i = tl.program_id(0) * block + tl.arange(0, block)
    tl.store(out + i, tl.rsqrt(tl.load(x + i)))


@triton.jit
def exponential(x, y, out, block: tl.constexpr):
    i = tl.program_id(0) * block + tl.arange(0, block)
    tl.store(out + i, tl.exp2(tl.load(x + i)))


@triton.jit
def flushed(x, y, out, block: tl.constexpr):
    i = tl.program_id(0) * block + tl.arange(0, block)
    found = tl.inline_asm_elementwise(
        "mul.rn.ftz.f32 $0, $1, $2;",
        "=f,f,f",
        [tl.load(x + i), tl.load(y + i)],
        dtype=tl.float32,
        is_pure=True,
        pack=1,
    )
    tl.store(out + i, found)


@triton.jit
def atomic(x, y, out, block: tl.constexpr):
    i = tl.program_id(0) * block + tl.arange(0, block)
    tl.atomic_add(out + i % 7, tl.load(x + i))


@triton.jit
def widened(x, y, out, block: tl.constexpr):
    """int8 products on float units, as a compiler without integer dots makes them."""
    i = tl.arange(0, block)
    place = i[:, None] * block + i[None, :]
    a, b = tl.load(x + place), tl.load(y + place)
    exact = tl.dot(a, b, out_dtype=tl.int32)
    lossy = tl.dot(a.to(tl.float32), b.to(tl.float32), input_precision="ieee")
    tl.store(out + place, exact + lossy.to(tl.int32))


@triton.jit
def narrowed(x, y, out, block: tl.constexpr):
    i = tl.arange(0, block)
    place = i[:, None] * block + i[None, :]
    tl.store(out + place, tl.dot(tl.load(x + place), tl.load(y + place), input_precision="tf32"))


@triton.jit
def greedy(x, y, out, block: tl.constexpr):
    """More values alive at once than there are registers."""
    i = tl.program_id(0) * block + tl.arange(0, block)
    a = tl.load(x + i)
    tl.store(out + i, a * tl.sum(a) + tl.load(y + i))


@triton.jit
def deep(x, y, out, block: tl.constexpr):
    """Eight tiles in flight, more than shared memory holds."""
    i = tl.arange(0, block)
    total = tl.zeros((block, block), dtype=tl.float32)
    for k in range(0, 4096, block):
        a = tl.load(x + i[:, None] * 4096 + (k + i)[None, :])
        b = tl.load(y + (k + i)[:, None] * block + i[None, :])
        total = tl.dot(a, b, total)
    tl.store(out + i[:, None] * block + i[None, :], total)


_FLOATS = {"x": "*fp32", "y": "*fp32", "out": "*fp32", "block": "constexpr"}
_HALVES = {"x": "*bf16", "y": "*bf16", "out": "*fp32", "block": "constexpr"}
_BYTES = {"x": "*i8", "y": "*i8", "out": "*i32", "block": "constexpr"}

BAD = (
    BadKernel(contracted, "AUDIT-FMA-1", _FLOATS, {"block": 256}, options={}),
    BadKernel(fused, "AUDIT-FMA-1", _FLOATS, {"block": 256}),
    BadKernel(divided, "AUDIT-DIVIDE-1", _FLOATS, {"block": 256}),
    BadKernel(rooted, "AUDIT-DIVIDE-1", _FLOATS, {"block": 256}),
    BadKernel(exponential, "AUDIT-FUNCTION-1", _FLOATS, {"block": 256}),
    BadKernel(flushed, "AUDIT-FLUSH-1", _FLOATS, {"block": 256}, targets=("sm_80", "sm_90")),
    BadKernel(atomic, "AUDIT-ATOMIC-1", _FLOATS, {"block": 256}, profile=Numerics.FAST),
    BadKernel(widened, "AUDIT-INT8-1", _BYTES, {"block": 32}),
    BadKernel(
        narrowed,
        "AUDIT-TF32-1",
        _FLOATS,
        {"block": 64},
        targets=("sm_80", "sm_90"),
        profile=Numerics.FAST,
    ),
    BadKernel(
        greedy,
        "AUDIT-SPILL-1",
        _FLOATS,
        {"block": 16384},
        targets=("sm_80", "sm_90"),
        options={"num_warps": 1},
        profile=Numerics.FAST,
    ),
    BadKernel(
        deep,
        "AUDIT-SHARED-1",
        _HALVES,
        {"block": 128},
        targets=("sm_80", "sm_90"),
        options={"num_warps": 8, "num_stages": 8},
        profile=Numerics.FAST,
    ),
)
"""Every rule is broken by at least one."""
