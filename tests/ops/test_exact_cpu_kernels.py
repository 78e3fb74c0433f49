"""The compiled kernels give the bytes of the exact profile's definitions, in every mode."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from op_inputs import ACTIVATIONS, Inputs, bits, context, paged
from torch import Tensor

from glm5_hal import Backend, Weight, WeightRole
from glm5_hal.backends.cpu.backend import CpuBackend
from glm5_hal.backends.cpu.portable import CpuPortable
from glm5_hal.contract import OPS
from glm5_hal.errors import ContractError
from glm5_hal.exact import LONGEST, digits_of, exact_sums, fixed
from glm5_hal.levels import Numerics

kernels = pytest.importorskip(
    "glm5_hal.kernels.cpu", reason="the extension was not built", exc_type=ImportError
)

BACKEND: Any = CpuBackend.in_profile(Numerics.EXACT)(0)
MODES: tuple[str, ...] = kernels.MODES
CUT = (WeightRole.LINEAR, WeightRole.HEAD_LINEAR, WeightRole.EXPERTS)
SPECIAL = (0.0, -0.0, torch.inf, -torch.inf, torch.nan, 1e-40, 3.3e38, 2.0**-126, 2.0**-51, -1.0)
WORST = (-0x808080 / 2**23, -0x4080 / 2**14, -1.0, 1.0, 0x3F7F7F / 2**22)
"""Digits of -128 and of 64, where sums are largest."""


@dataclass(frozen=True)
class Call:
    """An op and its arguments; weights are plain, as the definition takes them."""

    op: str
    args: tuple[Any, ...]

    def expected(self) -> Any:
        """By the definition; the parts of a composite one after the other."""
        if self.op == "dsa_select":
            q, w, keys, where, scale, k = self.args
            scores = Call("index_scores", (q, w, keys, where, scale)).expected()
            return OPS["topk"].reference(scores, where.lengths, k)
        return OPS[self.op].definition(Numerics.EXACT)(*self.args)

    def found(self, backend: Backend) -> Any:
        """By the kernels, which cut weights their own way."""
        args = [
            backend.prepare_weight(a.role, a.tensor) if isinstance(a, Weight) else a
            for a in self.args
        ]
        return getattr(backend, self.op)(*args)


def agree(found: Any, expected: Any) -> None:
    """One shape, one dtype, the same bytes."""
    if isinstance(expected, tuple):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            agree(one, other)
        return
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    torch.testing.assert_close(bits(found), bits(expected), rtol=0, atol=0)


def weight(role: WeightRole, tensor: Tensor) -> Weight:
    """A plain weight."""
    return Weight(role, tuple(tensor.shape), tensor.dtype, tensor)


def wild(draw: Inputs, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Normal values over many powers of two, a few special ones, a row of zeros."""
    x = draw.normal(*shape) * torch.exp2(draw.integers(-60, 60, *shape).float())
    if x.numel():
        for place, value in enumerate(SPECIAL):
            x.view(-1)[(place * 37 + 5) % x.numel()] = value
        x.view(-1, shape[-1])[-1] = 0.0
    x = x.to(dtype)
    return x.masked_fill(x.isnan(), torch.nan)  # of one pattern


def strided(x: Tensor) -> Tensor:
    """The same values with gaps between the rows."""
    wider = torch.full((*x.shape[:-1], x.shape[-1] + 3), torch.nan, dtype=x.dtype)
    wider[..., : x.shape[-1]] = x
    return wider[..., : x.shape[-1]]


def linears(draw: Inputs, dtype: torch.dtype) -> Iterator[Call]:
    for rows, length, columns in ((0, 5, 3), (1, 1, 1), (2, 65, 130), (5, 333, 17), (35, 128, 64)):
        for of in ACTIVATIONS:
            w = weight(WeightRole.LINEAR, wild(draw, columns, length, dtype=of))
            yield Call("linear", (strided(wild(draw, rows, length, dtype=dtype)), w, None))
            plain = weight(WeightRole.LINEAR, draw.normal(columns, length, dtype=of))
            yield Call("linear", (draw.normal(rows, length, dtype=dtype), plain, torch.float32))


def worst_digits(draw: Inputs, dtype: torch.dtype) -> Iterator[Call]:
    values = torch.tensor(WORST)
    for rows, length in ((1, 700), (3, 20000)):
        x = values[draw.integers(0, 2, rows, length).long()].to(dtype)
        for of in ACTIVATIONS:
            w = values[draw.integers(0, 5, 18, length).long()].to(of)
            yield Call("linear", (x, weight(WeightRole.LINEAR, w), torch.float32))


def head_linears(draw: Inputs, dtype: torch.dtype) -> Iterator[Call]:
    for tokens, heads, length, columns in ((0, 2, 3, 4), (1, 3, 70, 33), (19, 2, 64, 16)):
        w = weight(WeightRole.HEAD_LINEAR, wild(draw, heads, columns, length, dtype=dtype))
        x = wild(draw, heads, tokens, length, dtype=dtype).transpose(0, 1)
        yield Call("head_linear", (x, w))


def grouped_linears(draw: Inputs, dtype: torch.dtype) -> Iterator[Call]:
    for counts in ((0, 0), (0, 3, 0, 17), (1, 1, 1)):
        offsets = torch.tensor((0, *counts)).cumsum(0).int()
        w = weight(WeightRole.EXPERTS, draw.normal(len(counts), 21, 90, dtype=dtype))
        yield Call("grouped_linear", (wild(draw, sum(counts), 90, dtype=dtype), w, offsets))


def norms(draw: Inputs, dtype: torch.dtype) -> Iterator[Call]:
    for width in (1, 7, 100, 513):
        w, b = (weight(WeightRole.VECTOR, wild(draw, width)) for _ in range(2))
        for x in (wild(draw, 4, width, dtype=dtype), draw.normal(3, width, dtype=dtype)):
            yield Call("rms_norm", (strided(x), w, 1e-5, None))
            yield Call("rms_norm", (x, w, 0.0, strided(wild(draw, *x.shape, dtype=dtype))))
            yield Call("layer_norm", (strided(x), w, b, 1e-6))
        yield Call("layer_norm", (torch.full((2, width), 3.3).to(dtype), w, b, 1e-6))


def ropes(draw: Inputs, dtype: torch.dtype) -> Iterator[Call]:
    for tokens, width in ((0, 4), (3, 2), (5, 64)):
        table = weight(WeightRole.ROPE_TABLE, wild(draw, 9, width))
        for interleaved in (True, False):
            x = strided(wild(draw, tokens, 3, width, dtype=dtype))
            yield Call("rope", (x, draw.integers(0, 9, tokens), table, interleaved))


def activations(draw: Inputs, dtype: torch.dtype) -> Iterator[Call]:
    for rows, width in ((0, 2), (3, 6), (2, 1000)):
        yield Call("swiglu", (strided(wild(draw, rows, width, dtype=dtype)),))
        yield Call("swiglu", (draw.normal(rows, width, dtype=dtype, scale=30.0),))


def combines(draw: Inputs, dtype: torch.dtype) -> Iterator[Call]:
    for tokens, k, width in ((0, 2, 3), (5, 3, 300), (4, 1, 17)):
        rows = wild(draw, tokens * k, width, dtype=dtype)
        slots = draw.permutation(tokens * k).int()
        shared = strided(draw.normal(tokens, width, dtype=dtype))
        for last in (None, shared):
            yield Call("moe_combine", (rows, slots, wild(draw, tokens, k), last))


def routes(draw: Inputs, dtype: torch.dtype) -> Iterator[Call]:
    bias = weight(WeightRole.VECTOR, draw.normal(24, scale=0.1))
    for logits in (wild(draw, 4, 24), draw.normal(5, 24), torch.zeros(2, 24), torch.empty(0, 24)):
        for k, groups, kept in ((1, 1, 1), (8, 1, 1), (5, 4, 2), (24, 2, 2)):
            for normalize in (True, False):
                yield Call("moe_route", (logits, bias, k, groups, kept, normalize, 2.5))


def selections(draw: Inputs, dtype: torch.dtype) -> Iterator[Call]:
    for make in (Inputs.normal, wild):
        sequences = [make(draw, length, 40, dtype=dtype) for length in (37, 90)]
        keys, table = paged(sequences, 16, draw.permutation(10))
        where = context(table, [0, 0, 1, 1, 1], [1, 37, 16, 17, 90], extra=5)
        q, w = make(draw, 5, 19, 40, dtype=dtype), make(draw, 5, 19)
        yield Call("index_scores", (strided(q), strided(w), keys, where, 0.1))
        for k in (1, 16, 60, 100):
            yield Call("dsa_select", (q, w, keys, where, 0.1, k))
    for scores in (wild(draw, 3, 500), torch.zeros(3, 500), draw.normal(3, 500).round()):
        for k in (1, 64, 499, 600):
            yield Call("topk", (strided(scores), torch.tensor([0, 77, 500]).int(), k))


def attentions(draw: Inputs, dtype: torch.dtype) -> Iterator[Call]:
    for heads, latent, turned, sharp in ((3, 20, 6, 1.0), (16, 64, 8, 20.0), (19, 65, 2, 0.01)):
        sequences = [draw.normal(length, latent + turned, dtype=dtype) for length in (70, 200)]
        cache, table = paged(sequences, 16, draw.permutation(19))
        where = context(table, [0, 0, 1, 1, 1], [1, 70, 64, 65, 200], extra=5)
        queries = [strided(draw.normal(5, heads, n, dtype=dtype)) for n in (latent, turned)]
        yield Call("latent_attention", (*queries, cache, where, sharp, None))
        chosen = torch.full((5, 66), -1, dtype=torch.int32)
        for token, count in enumerate((0, 1, 64, 65, 66)):
            own = draw.permutation(70)[:count].sort().values.int()
            chosen[token, :count] = own
        chosen[1, 3] = 7  # behind the first -1
        yield Call("latent_attention", (*queries, cache, where, sharp, chosen))
        queries[0][2, 1, 0] = torch.inf
        cache.tensor[int(table[1, 0])] *= torch.nan
        yield Call("latent_attention", (*queries, cache, where, sharp, None))
        yield Call("latent_attention", (*queries, cache, where, sharp, chosen))


def orthogonals(draw: Inputs, dtype: torch.dtype) -> Iterator[Call]:
    for shape in ((0, 2, 3), (2, 20, 33), (1, 40, 7), (1, 1, 1)):
        yield Call("muon_orthogonalize", (draw.normal(*shape, dtype=dtype), 3))
    yield Call("muon_orthogonalize", (torch.zeros(1, 3, 4, dtype=dtype), 5))


def samples(draw: Inputs, dtype: torch.dtype) -> Iterator[Call]:
    rows = torch.cat((draw.normal(12, 900, scale=3.0), wild(draw, 4, 900), torch.zeros(2, 900)))
    heat = torch.tensor([0.0, 1.0, 0.3, 1.0, 2.0, 1e-20]).repeat(3)
    mass = torch.tensor([1.0, 0.9, 0.1, 0.0, 1.5, 0.5, 0.99]).repeat(3)[:18]
    draws = draw.integers(0, 1 << 24, 18)
    draws[:2] = torch.tensor([0, (1 << 24) - 1])
    yield Call("sample", (strided(rows), heat, mass, draws))


MAKERS: tuple[Callable[[Inputs, torch.dtype], Iterator[Call]], ...] = (
    *(linears, worst_digits, head_linears, grouped_linears, norms, ropes, activations),
    *(combines, routes, selections, attentions, orthogonals, samples),
)


@pytest.mark.parametrize("dtype", ACTIVATIONS, ids=("float32", "bfloat16"))
@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
def test_every_mode_gives_the_bytes_of_the_definition(
    make: Callable[[Inputs, torch.dtype], Iterator[Call]], dtype: torch.dtype
) -> None:
    for place, call in enumerate(make(Inputs(make.__name__, dtype), dtype)):
        expected = call.expected()
        for mode in MODES:
            BACKEND.use_mode(mode)
            torch.set_num_threads(1 + place % 3)
            found = call.found(BACKEND)
            torch.set_num_threads(1)
            agree(found, expected)


@pytest.mark.parametrize("mode", MODES)
def test_the_longest_sum(mode: str) -> None:
    draw = Inputs("longest")
    values = torch.tensor(WORST)
    x, w = (values[draw.integers(0, 2, n, LONGEST).long()] for n in (1, 2))
    for dtype in (torch.float32, torch.bfloat16):
        call = Call("linear", (x, weight(WeightRole.LINEAR, w.to(dtype)), None))
        BACKEND.use_mode(mode)
        agree(call.found(BACKEND), call.expected())


def test_longer_sums_are_refused() -> None:
    w = BACKEND.prepare_weight(WeightRole.LINEAR, torch.ones(1, LONGEST + 1))
    with pytest.raises(ContractError, match="131,072 products"):
        BACKEND.linear(torch.ones(1, LONGEST + 1), w)


def test_more_rows_than_are_kept_at_a_time() -> None:
    draw = Inputs("long attention")
    cache, table = paged([draw.normal(4500, 24, dtype=torch.bfloat16)], 64)
    where = context(table, [0, 0], [4400, 4500])
    queries = [draw.normal(2, 3, n, dtype=torch.bfloat16) for n in (16, 8)]
    call = Call("latent_attention", (*queries, cache, where, 0.3, None))
    expected = call.expected()
    for mode in MODES[:2]:
        BACKEND.use_mode(mode)
        agree(call.found(BACKEND), expected)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", ACTIVATIONS, ids=("float32", "bfloat16"))
def test_sums_with_exponents_from_outside(mode: str, dtype: torch.dtype) -> None:
    draw = Inputs("sums", dtype)
    x, w = draw.normal(5, 200, dtype=dtype), draw.normal(1, 30, 200, dtype=dtype)
    rows, columns = fixed(x, 3), fixed(w[0], digits_of(dtype))
    exact = kernels.Exact(mode)
    kept = exact.pack(w)
    assert torch.equal(kept.exponents[0], columns.exponent)
    assert torch.equal(exact.linear_sums(x, kept, rows.exponent), exact_sums(rows, columns))
    higher = fixed(x, 3, rows.exponent + 2)
    raised = exact.pack(w, exponents=columns.exponent.unsqueeze(0) + 3)
    wide = fixed(w[0], digits_of(dtype), columns.exponent + 3)
    assert torch.equal(exact.linear_sums(x, raised, rows.exponent + 2), exact_sums(higher, wide))


def test_weights_keep_two_bytes_an_element() -> None:
    made = BACKEND.prepare_weight(WeightRole.LINEAR, torch.ones(256, 512, dtype=torch.bfloat16))
    assert made.data.blocks.numel() == 2 * 256 * 512


def test_modes() -> None:
    assert type(BACKEND) is not CpuPortable
    assert BACKEND.modes()[-1] == "generic"
    with pytest.raises(ValueError, match="no mode 'abacus' on this machine"):
        BACKEND.use_mode("abacus")
