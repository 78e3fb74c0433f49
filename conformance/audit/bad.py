"""Kernels with one fault each: the proof that every rule of the audit fires."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import triton
import triton.language as tl

from glm5_hal import Numerics

SM = ("sm_80", "sm_90", "sm_100")
GFX = ("gfx90a", "gfx942")
TARGETS = SM + GFX


@dataclass(frozen=True)
class BadKernel:
    """A kernel and the rule that it breaks; fields as in `compiler.Kernel`.

    Attributes:
        breaks: id of the rule.
        targets: for which the fault shows.
        also: rules that it may break besides, as the chip's own functions flush.
        label: what is wrong, where it is not the function.
    """

    function: Any
    breaks: str
    signature: Mapping[str, str]
    constexprs: Mapping[str, Any]
    targets: tuple[str, ...] = TARGETS
    options: Mapping[str, Any] = field(default_factory=lambda: {"enable_fp_fusion": False})
    profile: Numerics = Numerics.EXACT
    op: str = "none"
    aligned: tuple[str, ...] = ()
    grid: tuple[int, int, int] = (32768, 1, 1)
    promised: int | None = None
    label: str = ""
    also: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Its label, or its function's."""
        return f"bad.{self.label or self.function.__name__}"


@triton.jit
def multiply_add(first, x, y, out, block: tl.constexpr):
    i = (tl.program_id(0) + first) * block + tl.arange(0, block)
    tl.store(out + i, tl.load(x + i) * tl.load(y + i) + tl.load(out + i))


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
def flushed(first, x, y, out, block: tl.constexpr):
    i = (tl.program_id(0) + first) * block + tl.arange(0, block)
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
def atomic(first, x, y, out, block: tl.constexpr):
    i = (tl.program_id(0) + first) * block + tl.arange(0, block)
    tl.atomic_add(out + i % 7, tl.load(x + i))


@triton.jit
def widened(first, x, y, out, block: tl.constexpr):
    """int8 products beside others on float units, as a compiler without integer dots makes them."""
    i = tl.arange(0, block)
    place = i[:, None] * block + i[None, :]
    a, b = tl.load(x + place), tl.load(y + place)
    exact = tl.dot(a, b, out_dtype=tl.int32)
    lossy = tl.dot(a.to(tl.float32), b.to(tl.float32), input_precision="ieee")
    tl.store(out + place, exact + lossy.to(tl.int32))


@triton.jit
def halved(first, x, y, out, block: tl.constexpr):
    """Where 64 bits are 32, a product has no upper half."""
    i = (tl.program_id(0) + first) * block + tl.arange(0, block)
    product = tl.load(x + i).to(tl.int64) * tl.load(y + i)
    tl.store(out + i, (product >> 32).to(tl.int32))


@triton.jit
def narrowed(first, x, y, out, block: tl.constexpr):
    i = tl.arange(0, block)
    place = i[:, None] * block + i[None, :]
    tl.store(out + place, tl.dot(tl.load(x + place), tl.load(y + place), input_precision="tf32"))


@triton.jit
def greedy(first, x, y, out, block: tl.constexpr):
    """More values alive at once than there are registers."""
    i = (tl.program_id(0) + first) * block + tl.arange(0, block)
    a, b = tl.load(x + i), tl.load(y + i)
    tl.store(out + i, a * tl.sum(b) + b * tl.sum(a))


@triton.jit
def deep(first, x, y, out, block: tl.constexpr):
    """Five tiles in flight, more than shared memory holds."""
    i = tl.arange(0, block)
    total = tl.zeros((block, block), dtype=tl.float32)
    for k in range(0, 4096, block):
        a = tl.load(x + i[:, None] * 4096 + (k + i)[None, :])
        b = tl.load(y + (k + i)[:, None] * block + i[None, :])
        total = tl.dot(a, b, total)
    tl.store(out + i[:, None] * block + i[None, :], total)


@triton.jit
def unordered(first, x, y, out, block: tl.constexpr):
    """The order of the sum is the layout's."""
    i = tl.program_id(0) + first
    tl.store(out + i, tl.sum(tl.load(x + i * block + tl.arange(0, block))))


@triton.jit
def running(first, x, y, out, block: tl.constexpr):
    i = (tl.program_id(0) + first) * block + tl.arange(0, block)
    tl.store(out + i, tl.cumsum(tl.load(x + i), 0))


@triton.jit
def multiplied(first, x, y, out, block: tl.constexpr):
    """A float product has the chip's own order, and its own width of the sum."""
    i = tl.arange(0, block)
    place = i[:, None] * block + i[None, :]
    tl.store(out + place, tl.dot(tl.load(x + place), tl.load(y + place)))


@triton.jit
def queued(first, x, y, out, block: tl.constexpr):
    """Rows take places in the order in which programs come by."""
    i = tl.program_id(0) + first
    tl.store(y + tl.atomic_add(out, 1), tl.load(x + i))


@triton.jit
def forgetful(first, x, y, out, block: tl.constexpr):
    """Every part of a launch does the first part's work."""
    i = tl.program_id(0) * block + tl.arange(0, block)
    tl.store(out + i, tl.load(x + i))


@triton.jit
def striding(first, x, y, out, block: tl.constexpr):
    """Every part of a launch does all parts' work."""
    i = (tl.program_id(0) + first) * block + tl.arange(0, block)
    for k in range(0, 4):
        at = i + k * block * tl.num_programs(0)
        tl.store(out + at, tl.load(x + at))


@triton.jit
def copied(first, x, y, out, block: tl.constexpr):
    i = (tl.program_id(0) + first) * block + tl.arange(0, block)
    tl.store(out + i, tl.load(x + i))


_FLOATS = {"first": "i32", "x": "*fp32", "y": "*fp32", "out": "*fp32", "block": "constexpr"}
_HALVES = {**_FLOATS, "x": "*bf16", "y": "*bf16"}
_BYTES = {**_FLOATS, "x": "*i8", "y": "*i8", "out": "*i32"}
_WORDS = {**_FLOATS, "x": "*i32", "y": "*i32", "out": "*i32"}
_BLOCK = {"block": 256}
FAST = Numerics.FAST


def _options(**more: object) -> dict[str, object]:
    return {"enable_fp_fusion": False, **more}


BAD = (
    BadKernel(multiply_add, "AUDIT-FMA-1", _FLOATS, _BLOCK, options={}, label="contracted"),
    BadKernel(fused, "AUDIT-FMA-1", _FLOATS, _BLOCK),
    BadKernel(unordered, "AUDIT-SUM-1", _FLOATS, _BLOCK),
    BadKernel(running, "AUDIT-SUM-1", _FLOATS, _BLOCK),
    BadKernel(multiplied, "AUDIT-SUM-1", _HALVES, {"block": 64}),
    BadKernel(divided, "AUDIT-DIVIDE-1", _FLOATS, _BLOCK),
    BadKernel(rooted, "AUDIT-DIVIDE-1", _FLOATS, _BLOCK, also=("AUDIT-FLUSH-1",)),
    BadKernel(exponential, "AUDIT-FUNCTION-1", _FLOATS, _BLOCK, also=("AUDIT-FLUSH-1",)),
    BadKernel(flushed, "AUDIT-FLUSH-1", _FLOATS, _BLOCK, SM),
    BadKernel(
        multiply_add,
        "AUDIT-FLUSH-1",
        _FLOATS,
        _BLOCK,
        GFX,
        options=_options(allow_flush_denorm=True),
        label="flushing",
    ),
    BadKernel(atomic, "AUDIT-ATOMIC-1", _FLOATS, _BLOCK, profile=FAST),
    BadKernel(queued, "AUDIT-ATOMIC-2", _WORDS, _BLOCK, profile=FAST),
    BadKernel(widened, "AUDIT-INT8-1", _BYTES, {"block": 32}, profile=FAST),
    BadKernel(halved, "AUDIT-INT64-1", _WORDS, _BLOCK),
    BadKernel(narrowed, "AUDIT-TF32-1", _FLOATS, {"block": 64}, (*SM, "gfx942"), profile=FAST),
    *(
        BadKernel(
            greedy,
            "AUDIT-SPILL-1",
            _FLOATS,
            {"block": block},
            targets,
            options=_options(num_warps=1),
            profile=FAST,
            label=f"greedy-{block}",
        )
        for block, targets in ((8192, SM), (16384, ("gfx942",)))
    ),
    BadKernel(
        deep,
        "AUDIT-SHARED-1",
        _HALVES,
        {"block": 128},
        ("sm_90", "gfx942"),
        options=_options(num_warps=8, num_stages=5),
        profile=FAST,
    ),
    BadKernel(
        multiplied,
        "AUDIT-SHARED-1",
        _HALVES,
        {"block": 64},
        profile=FAST,
        promised=1024,
        label="modest",
    ),
    BadKernel(
        copied,
        "AUDIT-THREADS-1",
        _FLOATS,
        {"block": 8192},
        options=_options(num_warps=64),
        label="crowded",
    ),
    BadKernel(forgetful, "AUDIT-GRID-1", _FLOATS, _BLOCK),
    BadKernel(striding, "AUDIT-GRID-1", _FLOATS, _BLOCK),
    BadKernel(copied, "AUDIT-GRID-1", _FLOATS, _BLOCK, grid=(1 << 31, 1, 1), label="wide"),
    BadKernel(copied, "AUDIT-GRID-1", _FLOATS, _BLOCK, grid=(1, 65536, 1), label="tall"),
)
"""Every rule is broken by at least one."""
