"""A row's bytes depend on the row alone: not on the batch, its place, its neighbours or strides.

Every op is written as a function of rows. What all rows share (weights, caches, page tables) is
fixed, so any subset of the rows in any company must give the bytes of each row alone.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import pytest
import torch
from op_inputs import ACTIVATIONS, Inputs, call, context, kept, paged, same_bytes
from torch import Tensor

from glm5_hal import Cache, WeightRole, ops
from glm5_hal.contract import OPS, Op

Rows = Mapping[str, Tensor]
Results = tuple[Tensor, ...]
PAGE_SIZE = 16


@dataclass(frozen=True)
class RowOp:
    """An op as a function of its rows.

    Attributes:
        rows: inputs whose first dimension is the row.
        run: takes those of any rows, returns results whose first dimension is the row.
    """

    rows: Rows
    run: Callable[[Rows], Results]

    @property
    def count(self) -> int:
        """How many rows there are."""
        return len(next(iter(self.rows.values())))

    def at(self, chosen: slice) -> Results:
        """Results of neighbouring rows."""
        return self.run({name: tensor[chosen] for name, tensor in self.rows.items()})

    def alone(self) -> Results:
        """Results of each row by itself, put together."""
        results = [self.at(slice(row, row + 1)) for row in range(self.count)]
        return tuple(torch.cat(part) for part in zip(*results, strict=True))


@dataclass(frozen=True)
class Size:
    """Small widths with odd tails, or those of the published model."""

    name: str
    rows: int

    def of(self, small: int, real: int) -> int:
        """The width at this size."""
        return small if self.name == "small" else real


SMALL = Size("small", 70)
REAL = Size("real", 34)
Maker = Callable[[Inputs, torch.dtype, Size], RowOp]
MAKERS: dict[str, Maker] = {}


def maker(function: Maker) -> Maker:
    """Enter a function under its name, the op's."""
    MAKERS[function.__name__] = function
    return function


@maker
def embedding(inputs: Inputs, dtype: torch.dtype, size: Size) -> RowOp:
    table = inputs.weight(WeightRole.EMBEDDING, 50, size.of(13, 6144), dtype=dtype)
    rows = {"ids": inputs.integers(0, 50, size.rows)}
    return RowOp(rows, lambda r: (call(ops.embedding, r["ids"], table),))


@maker
def linear(inputs: Inputs, dtype: torch.dtype, size: Size) -> RowOp:
    width = size.of(37, 6144)
    w = inputs.weight(WeightRole.LINEAR, size.of(19, 160), width, dtype=dtype)
    float_w = inputs.weight(WeightRole.LINEAR, size.of(5, 32), width)

    def run(r: Rows) -> Results:
        return (
            call(ops.linear, r["x"], w),
            call(ops.linear, r["x"], w, torch.float32),
            call(ops.linear, r["x"], float_w),
        )

    return RowOp({"x": inputs.normal(size.rows, width, dtype=dtype)}, run)


@maker
def head_linear(inputs: Inputs, dtype: torch.dtype, size: Size) -> RowOp:
    heads, width = size.of(3, 4), size.of(21, 512)
    w = inputs.weight(WeightRole.HEAD_LINEAR, heads, size.of(11, 256), width, dtype=dtype)
    rows = {"x": inputs.normal(size.rows, heads, width, dtype=dtype)}
    return RowOp(rows, lambda r: (call(ops.head_linear, r["x"], w),))


@maker
def rms_norm(inputs: Inputs, dtype: torch.dtype, size: Size) -> RowOp:
    width = size.of(45, 6144)
    w = inputs.vector(width)
    rows = {name: inputs.normal(size.rows, width, dtype=dtype) for name in ("x", "residual")}

    def run(r: Rows) -> Results:
        y, _ = call(ops.rms_norm, r["x"], w, 1e-5)
        return (y, *call(ops.rms_norm, r["x"], w, 1e-5, r["residual"]))

    return RowOp(rows, run)


@maker
def layer_norm(inputs: Inputs, dtype: torch.dtype, size: Size) -> RowOp:
    width = size.of(45, 128)
    w, b = inputs.vector(width), inputs.vector(width, 0)
    rows = {"x": inputs.normal(size.rows, width, dtype=dtype)}
    return RowOp(rows, lambda r: (call(ops.layer_norm, r["x"], w, b, 1e-6),))


@maker
def rope(inputs: Inputs, dtype: torch.dtype, size: Size) -> RowOp:
    width = size.of(6, 64)
    angles = inputs.uniform(100, width // 2) * 6
    table = kept(WeightRole.ROPE_TABLE, torch.cat((angles.cos(), angles.sin()), dim=1))
    rows = {
        "x": inputs.normal(size.rows, size.of(3, 64), width, dtype=dtype),
        "positions": inputs.integers(0, 100, size.rows),
    }

    def run(r: Rows) -> Results:
        return tuple(call(ops.rope, r["x"], r["positions"], table, flag) for flag in (True, False))

    return RowOp(rows, run)


@maker
def swiglu(inputs: Inputs, dtype: torch.dtype, size: Size) -> RowOp:
    rows = {"x": inputs.normal(size.rows, 2 * size.of(23, 2048), dtype=dtype, scale=4)}
    return RowOp(rows, lambda r: (call(ops.swiglu, r["x"]),))


@maker
def cache_read(inputs: Inputs, dtype: torch.dtype, size: Size) -> RowOp:
    cache, _ = paged([inputs.normal(60, size.of(7, 576), dtype=dtype)], PAGE_SIZE)
    rows = {"slots": inputs.integers(0, 60, size.rows)}
    return RowOp(rows, lambda r: (call(ops.cache_read, cache, r["slots"]),))


@maker
def cache_write(inputs: Inputs, dtype: torch.dtype, size: Size) -> RowOp:
    width = size.of(7, 576)
    rows = {
        "x": inputs.normal(size.rows, width, dtype=dtype),
        "slots": inputs.permutation(80)[: size.rows].int(),
    }

    def run(r: Rows) -> Results:
        cache, _ = paged([torch.zeros(80, width, dtype=dtype)], PAGE_SIZE)
        call(ops.cache_write, cache, r["x"], r["slots"])
        return (cache.tensor[r["slots"].long()],)

    return RowOp(rows, run)


def sequences(
    inputs: Inputs, size: Size, width: int, longest: int, dtype: torch.dtype
) -> tuple[Cache, Tensor, Rows]:
    """(cache, page table, rows): three sequences in permuted pages, what each row sees of one.

    The first sequence is prefilled from its beginning, the second goes on in the middle, the last
    ends at `longest`. `indices` are ascending random positions below the row's length, padded
    with -1.
    """
    counts = torch.tensor([size.rows // 2, size.rows // 3, 0])
    counts[2] = size.rows - counts.sum()
    starts = (1, longest // 2 - 5, longest - int(counts[2]) + 1)
    runs = [torch.arange(n) + start for n, start in zip(counts.tolist(), starts, strict=True)]
    lengths = torch.cat(runs).int()
    sequence = torch.arange(3, dtype=torch.int32).repeat_interleave(counts)
    indices = torch.full((size.rows, 40), -1, dtype=torch.int32)
    for row, length in enumerate(lengths.tolist()):
        chosen = inputs.permutation(length)[:40].sort().values
        indices[row, : chosen.numel()] = chosen
    contents = [inputs.normal(longest, width, dtype=dtype) for _ in range(3)]
    order = inputs.permutation(3 * -(-longest // PAGE_SIZE) + 1)
    cache, table = paged(contents, PAGE_SIZE, order)
    return cache, table, {"sequence": sequence, "lengths": lengths, "indices": indices}


@maker
def latent_attention(inputs: Inputs, dtype: torch.dtype, size: Size) -> RowOp:
    heads, latent, rotated = size.of(3, 8), size.of(20, 512), size.of(6, 64)
    cache, table, seen = sequences(inputs, size, latent + rotated, size.of(140, 300), dtype)

    def run(r: Rows) -> Results:
        where = context(table, r["sequence"], r["lengths"])
        query = r["q_latent"], r["q_rope"], cache, where, 0.1
        return call(ops.latent_attention, *query), call(ops.latent_attention, *query, r["indices"])

    rows = {
        "q_latent": inputs.normal(size.rows, heads, latent, dtype=dtype),
        "q_rope": inputs.normal(size.rows, heads, rotated, dtype=dtype),
    }
    return RowOp({**rows, **seen}, run)


def _mla(op: Op[..., Tensor], inputs: Inputs, dtype: torch.dtype, size: Size) -> RowOp:
    heads, nope, value = size.of(3, 4), size.of(10, 192), size.of(9, 256)
    latent, rotated = size.of(20, 512), size.of(6, 64)
    cache, table, seen = sequences(inputs, size, latent + rotated, size.of(130, 140), dtype)
    role = WeightRole.HEAD_LINEAR
    w_uk = inputs.weight(role, heads, latent, nope, dtype=dtype, scale=nope**-0.5)
    w_uv = inputs.weight(role, heads, value, latent, dtype=dtype, scale=latent**-0.5)

    def run(r: Rows) -> Results:
        where = context(table, r["sequence"], r["lengths"])
        query = r["q_nope"], r["q_rope"], cache, where, w_uk, w_uv, 0.1
        return call(op, *query), call(op, *query, r["indices"])

    rows = {
        "q_nope": inputs.normal(size.rows, heads, nope, dtype=dtype),
        "q_rope": inputs.normal(size.rows, heads, rotated, dtype=dtype),
    }
    return RowOp({**rows, **seen}, run)


@maker
def mla(inputs: Inputs, dtype: torch.dtype, size: Size) -> RowOp:
    return _mla(ops.mla, inputs, dtype, size)


@maker
def mla_expanded(inputs: Inputs, dtype: torch.dtype, size: Size) -> RowOp:
    rows = size.of(20, 5)  # one token at a time: slow, and more of them show nothing more
    return _mla(ops.mla_expanded, inputs, dtype, replace(size, rows=rows))


def _indexed(inputs: Inputs, dtype: torch.dtype, size: Size, op: Callable[..., Tensor]) -> RowOp:
    heads, width, longest = size.of(3, 32), size.of(10, 128), size.of(530, 1040)
    keys, table, seen = sequences(inputs, size, width, longest, dtype)
    rows = {
        "q": inputs.normal(size.rows, heads, width, dtype=dtype),
        "w": inputs.normal(size.rows, heads),
        "sequence": seen["sequence"],
        "lengths": seen["lengths"],
    }

    def run(r: Rows) -> Results:
        where = context(table, r["sequence"], r["lengths"])
        return (op(r["q"], r["w"], keys, where, 0.05),)

    return RowOp(rows, run)


@maker
def index_scores(inputs: Inputs, dtype: torch.dtype, size: Size) -> RowOp:
    def padded(*args: object) -> Tensor:
        """Scores are as wide as the longest row in the call; behind a length they are -Inf."""
        scores: Tensor = call(ops.index_scores, *args)
        return torch.nn.functional.pad(scores, (0, 2000 - scores.shape[1]), value=-torch.inf)

    return _indexed(inputs, dtype, size, padded)


@maker
def dsa_select(inputs: Inputs, dtype: torch.dtype, size: Size) -> RowOp:
    return _indexed(inputs, dtype, size, lambda *args: call(ops.dsa_select, *args, 64))


@maker
def topk(inputs: Inputs, dtype: torch.dtype, size: Size) -> RowOp:
    columns, k = size.of(90, 5000), size.of(16, 2048)
    rows = {
        # many ties, most of them at 0
        "scores": torch.relu(inputs.integers(-5, 4, size.rows, columns).float()),
        "lengths": inputs.integers(0, columns + 1, size.rows),
    }
    return RowOp(rows, lambda r: (call(ops.topk, r["scores"], r["lengths"], k),))


@maker
def moe_route(inputs: Inputs, dtype: torch.dtype, size: Size) -> RowOp:
    experts, k = size.of(12, 256), size.of(3, 8)
    bias = inputs.vector(experts, 0)

    def run(r: Rows) -> Results:
        plain = call(ops.moe_route, r["logits"], bias, k, 1, 1, True, 2.5)
        return (*plain, *call(ops.moe_route, r["logits"], bias, k, 4, 2, False, 1.0))

    return RowOp({"logits": inputs.normal(size.rows, experts)}, run)


@maker
def moe_dispatch(inputs: Inputs, dtype: torch.dtype, size: Size) -> RowOp:
    def run(r: Rows) -> Results:
        rows, _, slots = call(ops.moe_dispatch, r["x"], r["ids"], 12)
        by_slot = torch.empty_like(rows)
        by_slot[slots.long()] = rows
        return (by_slot.unflatten(0, r["ids"].shape),)

    rows = {
        "x": inputs.normal(size.rows, size.of(9, 6144), dtype=dtype),
        "ids": inputs.experts(size.rows, 3, 12),
    }
    return RowOp(rows, run)


@maker
def moe_combine(inputs: Inputs, dtype: torch.dtype, size: Size) -> RowOp:
    width, k = size.of(9, 6144), size.of(3, 8)

    def run(r: Rows) -> Results:
        slots = torch.sort(r["ids"].flatten(), stable=True).indices
        args = r["by_slot"].flatten(0, 1)[slots], slots.int(), r["weights"]
        return call(ops.moe_combine, *args), call(ops.moe_combine, *args, r["shared"])

    rows = {
        "by_slot": inputs.normal(size.rows, k, width, dtype=dtype),
        "ids": inputs.experts(size.rows, k, 12),
        "weights": inputs.normal(size.rows, k),
        "shared": inputs.normal(size.rows, width, dtype=dtype),
    }
    return RowOp(rows, run)


@maker
def grouped_linear(inputs: Inputs, dtype: torch.dtype, size: Size) -> RowOp:
    width = size.of(21, 6144)
    w = inputs.weight(WeightRole.EXPERTS, 4, size.of(11, 128), width, dtype=dtype)

    def run(r: Rows) -> Results:
        order = torch.sort(r["expert"], stable=True).indices
        counts = torch.bincount(r["expert"], minlength=4).cumsum(0)
        offsets = torch.cat((torch.zeros(1), counts)).int()
        found = call(ops.grouped_linear, r["x"][order], w, offsets)
        out = torch.empty_like(found)
        out[order] = found
        return (out,)

    rows = {
        "x": inputs.normal(size.rows, width, dtype=dtype),
        # most rows at one expert, none at another
        "expert": torch.tensor([0, 1, 3])[inputs.integers(0, 9, size.rows).clamp(max=2).long()],
    }
    return RowOp(rows, run)


@maker
def moe_experts(inputs: Inputs, dtype: torch.dtype, size: Size) -> RowOp:
    width, hidden, experts, k = size.of(14, 1024), size.of(9, 128), size.of(6, 8), 3
    role = WeightRole.EXPERTS
    gate_up = inputs.weight(role, experts, 2 * hidden, width, dtype=dtype, scale=width**-0.5)
    down = inputs.weight(role, experts, width, hidden, dtype=dtype)

    def run(r: Rows) -> Results:
        args = r["x"], r["ids"], r["weights"], gate_up, down, r["shared"]
        return (call(ops.moe_experts, *args),)

    rows = {
        "x": inputs.normal(size.rows, width, dtype=dtype),
        "ids": inputs.experts(size.rows, k, experts),
        "weights": inputs.uniform(size.rows, k),
        "shared": inputs.normal(size.rows, width, dtype=dtype),
    }
    return RowOp(rows, run)


@maker
def muon_orthogonalize(inputs: Inputs, dtype: torch.dtype, size: Size) -> RowOp:
    count = size.of(18, 3)
    rows = {"g": inputs.normal(count, size.of(5, 192), size.of(7, 512), dtype=dtype)}

    def run(r: Rows) -> Results:
        tall = call(ops.muon_orthogonalize, r["g"].mT)
        return call(ops.muon_orthogonalize, r["g"]), tall

    return RowOp(rows, run)


@maker
def sample(inputs: Inputs, dtype: torch.dtype, size: Size) -> RowOp:
    count = size.of(70, 4)
    temperature = inputs.uniform(count) + 0.2
    temperature[::3] = 0
    rows = {
        "logits": inputs.normal(count, size.of(50, 154880), scale=3),
        "temperature": temperature,
        "top_p": inputs.uniform(count) + 0.05,
        "draws": inputs.integers(0, 2**24, count),
    }
    return RowOp(rows, lambda r: (call(ops.sample, *r.values()),))


def equal(found: Results, expected: Results) -> bool:
    """Whether all results have the same bytes."""
    return all(same_bytes(a, b) for a, b in zip(found, expected, strict=True))


def windows(count: int) -> Iterator[slice]:
    """Batches of 1 .. count rows, each at another place."""
    for rows in range(1, count + 1):
        start = 13 * rows % (count - rows + 1)
        yield slice(start, start + rows)


def strided(tensor: Tensor) -> Tensor:
    """The same values in a view: every other row, a gap behind each, off by one element."""
    if tensor.ndim == 1:
        return tensor
    holder = torch.zeros(
        2 * tensor.shape[0] + 1, *(n + 1 for n in tensor.shape[1:-1]), tensor.shape[-1] + 3
    ).to(tensor.dtype)
    inner = (slice(0, n) for n in tensor.shape[1:-1])
    view = holder[(slice(1, None, 2), *inner, slice(1, tensor.shape[-1] + 1))]
    view.copy_(tensor)
    return view


def every_op(function: Callable[..., None]) -> Callable[..., None]:
    """Run a test for each op, in float32 and bfloat16 activations."""
    by_dtype = pytest.mark.parametrize("dtype", ACTIVATIONS, ids=["fp32", "bf16"])
    marked: Callable[..., None] = pytest.mark.parametrize("name", MAKERS)(by_dtype(function))
    return marked


def test_every_op_of_the_contract_is_here() -> None:
    assert set(MAKERS) == {name for name, op in OPS.items() if op.profile is None}


@every_op
def test_a_row_is_the_same_in_batches_of_1_to_70(name: str, dtype: torch.dtype) -> None:
    case = MAKERS[name](Inputs("batch", name), dtype, SMALL)
    alone = case.alone()
    for window in windows(case.count):
        assert equal(case.at(window), tuple(part[window] for part in alone)), window


@every_op
@pytest.mark.parametrize("fill", [torch.nan, torch.inf, 1e30])
def test_a_row_does_not_see_its_neighbours(name: str, dtype: torch.dtype, fill: float) -> None:
    case = MAKERS[name](Inputs("neighbours", name), dtype, SMALL)
    for row in (0, 17, case.count - 1):
        filled = {
            key: value.masked_fill(
                (torch.arange(case.count) != row).view(-1, *[1] * (value.ndim - 1)), fill
            )
            if value.is_floating_point()
            else value
            for key, value in case.rows.items()
        }
        alone = case.at(slice(row, row + 1))
        found = tuple(part[row : row + 1] for part in case.run(filled))
        assert equal(found, alone), row


@every_op
def test_strides_do_not_matter(name: str, dtype: torch.dtype) -> None:
    case = MAKERS[name](Inputs("strides", name), dtype, SMALL)
    views = {key: strided(value) for key, value in case.rows.items()}
    assert equal(case.run(views), case.at(slice(None)))


def compare(case: RowOp, windows: list[tuple[int, int]], rows: list[int]) -> None:
    """Some rows of some batches with the same rows alone."""
    alone = {row: case.at(slice(row, row + 1)) for row in rows}
    for start, stop in windows:
        found = case.at(slice(start, stop))
        for row in range(start, stop):
            if row in alone:
                place = slice(row - start, row - start + 1)
                assert equal(tuple(part[place] for part in found), alone[row]), (start, stop, row)


@every_op
def test_a_row_is_the_same_at_real_widths(name: str, dtype: torch.dtype) -> None:
    case = MAKERS[name](Inputs("real", name), dtype, REAL)
    last = case.count - 1
    compare(case, [(0, last + 1), (0, 2), (2, last + 1), (1, last)], [0, 1, last // 2, last])


@every_op
def test_a_row_is_the_same_on_two_threads(name: str, dtype: torch.dtype) -> None:
    case = MAKERS[name](Inputs("real", name), dtype, REAL)
    torch.set_num_threads(2)
    compare(case, [(0, case.count), (0, 3)], [0, 1, case.count - 1])
