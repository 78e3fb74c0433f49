"""Every protection of the backends on a torch device, and what they would be without it."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor

from glm5_hal import Backend, Numerics, Weight
from glm5_hal.backends.torch_triton.device import TorchDeviceBackend
from glm5_hal.conformance.simulated.habits import NARROW, Profile
from glm5_hal.conformance.simulated.protections.protection import (
    Protection,
    with_members,
    with_options,
    with_source,
    with_target,
)
from glm5_hal.conformance.simulated.switch import NEVER

MANY = 2**31 - 1
"""Programs of a launch that no op comes near."""
MOST_WARPS = 32


def _torch_topk(_: Backend, scores: Tensor, lengths: Tensor, k: int) -> Tensor:
    """The vendor's top-k on the valid columns, its indices in order."""
    rows, width = scores.shape
    columns = torch.arange(width, device=scores.device)
    valid = columns < lengths[:, None]
    found = torch.topk(torch.where(valid, scores, -torch.inf), min(k, width)).indices
    found = torch.where(found < lengths[:, None], found, width).sort(dim=-1).values
    out = torch.full((rows, k), -1, dtype=torch.int32, device=scores.device)
    out[:, : found.shape[1]] = torch.where(found == width, -1, found).to(torch.int32)
    return out


def _added_combine(
    _: Backend, rows: Tensor, slots: Tensor, weights: Tensor, shared: Tensor | None = None
) -> Tensor:
    """Weighted rows added where they belong, in any order."""
    tokens, k = slots.shape
    out = torch.zeros(tokens, rows.shape[1], dtype=torch.float32, device=rows.device)
    parts = rows[slots.flatten()].float() * weights.flatten()[:, None]
    goals = torch.arange(tokens, device=rows.device).repeat_interleave(k)
    out.index_add_(0, goals, parts)
    return (out if shared is None else out + shared.float()).to(rows.dtype)


def _torch_linear(_: Backend, x: Tensor, w: Weight, out_dtype: torch.dtype | None = None) -> Tensor:
    """The vendor's product."""
    return torch.matmul(x, w.tensor.to(x.dtype).T).to(out_dtype or x.dtype)


_torch_products = with_members(linear=_torch_linear)


@contextmanager
def _torch_products_and_flags(backend: type[Backend]) -> Iterator[Backend]:
    """The vendor's product, and the backend's flags at the other value."""
    assert issubclass(backend, TorchDeviceBackend)
    around = backend._around()
    with ExitStack() as restored, _torch_products(backend) as made:
        for flag in backend._descriptor().flags:
            path, _, name = flag.flag.rpartition(".")
            owner = around.attribute(path)
            restored.callback(setattr, owner, name, flag.value)
            setattr(owner, name, not flag.value)
        yield made


def _grid(profile: Profile) -> bool:
    """Whether launches are limited below what ops ask for."""
    chip = profile.triton
    return min(chip.grid[0], chip.programs or MANY) <= 65_535


PROTECTIONS = (
    Protection(
        "top-k of its own",
        "torch.topk takes any of several equal scores",
        *(Numerics.FAST, "topk", "TOPK-1"),
        needed=lambda profile: profile.habits.unstable_choice != NEVER,
        removed=with_members(topk=_torch_topk),
    ),
    Protection(
        "experts added in slot order",
        "index_add adds in another order at every call",
        *(Numerics.FAST, "moe_combine", "RUN-1"),
        needed=lambda profile: profile.habits.unordered_updates != NEVER,
        removed=with_members(moe_combine=_added_combine),
    ),
    Protection(
        "products of its own",
        "how the vendor's product is summed depends on its number of rows",
        *(Numerics.FAST, "linear", "LINEAR-2"),
        needed=lambda profile: profile.habits.rows_change_products != NEVER,
        removed=_torch_products,
    ),
    Protection(
        "flags of reduced precision off",
        "float32 factors of the vendor's product lose bits",
        *(Numerics.FAST, "linear", "LINEAR-3"),
        needed=lambda profile: bool(profile.habits.rounds_products.settings),
        kept=_torch_products,
        removed=_torch_products_and_flags,
    ),
    Protection(
        "precision of tl.dot named",
        "float32 factors of tl.dot lose bits where a kernel names no precision",
        *(Numerics.FAST, "linear", "LINEAR-3"),
        needed=lambda profile: profile.triton.default_precision != "ieee",
        removed=with_source("products.fast_kernel", ', input_precision="ieee"', ""),
    ),
    Protection(
        "no fused multiply-add",
        "a product that is added to something is not rounded",
        *(Numerics.EXACT, "moe_combine", "EXACT-ROUNDING-1"),
        needed=lambda profile: profile.triton.fuses,
        removed=with_options(enable_fp_fusion=True),
    ),
    Protection(
        "division by div_rn",
        "quotients of / may be off by one place",
        *(Numerics.EXACT, "rms_norm", "EXACT-DIVIDE-1"),
        needed=lambda profile: profile.triton.approximate_division,
        removed=with_source("rms_norm.inverse_root", "tl.math.div_rn(1.0, root)", "1.0 / root"),
    ),
    Protection(
        "root by sqrt_rn",
        "roots of tl.sqrt may be off by one place",
        *(Numerics.EXACT, "rms_norm", "EXACT-DIVIDE-1"),
        needed=lambda profile: profile.triton.approximate_functions,
        removed=with_source("rms_norm.inverse_root", "tl.math.sqrt_rn", "tl.sqrt"),
    ),
    Protection(
        "exponential of its own",
        "powers of tl.exp may be off by one place",
        *(Numerics.EXACT, "swiglu", "EXACT-EXP-1"),
        needed=lambda profile: profile.triton.approximate_functions,
        removed=with_source("floats.sigmoid", "exp(-tl.abs(x))", "tl.exp(-tl.abs(x))"),
    ),
    Protection(
        "small operands read as zero",
        "subnormal numbers are flushed",
        *(Numerics.EXACT, "swiglu", "EXACT-READ-1"),
        needed=lambda profile: profile.triton.flushes_subnormals,
        removed=with_source("floats.read", "tl.where(tl.abs(x) < READ, 0.0, x)", "x"),
    ),
    Protection(
        "sums of two 32-bit limbs",
        "64-bit integers are computed in 32 bits",
        *(Numerics.EXACT, "linear", "EXACT-SUM-1"),
        needed=lambda profile: profile.triton.int64 == NARROW,
        removed=with_source(
            "fixing.valued",
            "to_float(high, low)",
            "((high.to(tl.int64) << 30) + low).to(tl.float32)",
        ),
    ),
    Protection(
        "launches in parts",
        "a launch has at most 65,535 programs",
        *(Numerics.FAST, "topk", "TOPK-5"),
        needed=_grid,
        removed=with_target(grid_limit=MANY),
        cases="many-rows",
    ),
    Protection(
        "few warps",
        "a program has at most so many warps",
        *(Numerics.FAST, "sample", "SAMPLE-1"),
        needed=lambda profile: (profile.triton.warps or MOST_WARPS) < 8,
        removed=with_target(max_warps=MOST_WARPS),
    ),
)
