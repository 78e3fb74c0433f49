"""The compiled kernels of the fast profile, in every mode that this machine has.

Accuracy and independence of the whole backend are tested through the ops elsewhere, in the mode
that is used. Here every mode meets shapes that leave tiles, splits and vectors partly filled.
"""

import sys
from collections.abc import Iterator

import pytest
import torch
from error_bounds import U, assert_within, gamma, rounded
from op_inputs import ACTIVATIONS, Inputs, paged, same_bytes
from torch import Tensor

from glm5_hal import Cache, PagedContext, WeightRole
from glm5_hal.backends.cpu.backend import CpuBackend
from glm5_hal.backends.cpu.moe import dispatch
from glm5_hal.levels import Numerics
from glm5_hal.ops import latent_attention as attention_op

kernels = pytest.importorskip(
    "glm5_hal.kernels.cpu.fast", reason="the extension was not built", exc_type=ImportError
)

MODES: tuple[str, ...] = kernels.MODES
every_mode = pytest.mark.parametrize("mode", MODES)
by_dtype = pytest.mark.parametrize("dtype", ACTIVATIONS, ids=["fp32", "bf16"])


@pytest.fixture
def threads() -> Iterator[None]:
    """The number of threads comes back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_the_modes_end_in_the_portable_one() -> None:
    backend = CpuBackend.in_profile(Numerics.FAST)
    assert backend.modes() == MODES
    assert MODES[-1] == "generic"
    with pytest.raises(ValueError, match="no mode 'none' on this machine; it has"):
        kernels.Fast("none")


def test_a_class_made_of_the_plain_backend_stays_what_it_is() -> None:
    class Made(CpuBackend):
        pass

    assert Made.in_profile(Numerics.FAST) is Made


def test_without_the_extension_plain_torch_answers_and_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert CpuBackend.in_profile(Numerics.FAST).advice() == ()
    monkeypatch.setitem(sys.modules, "glm5_hal.backends.cpu.fast", None)
    plain = CpuBackend.in_profile(Numerics.FAST)
    assert plain is CpuBackend
    (said,) = plain.advice()
    assert said.startswith("the fast profile runs in plain torch, slowly: its kernels were not")


@every_mode
@by_dtype
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 17, 33), (2, 64, 40), (5, 130, 65)])
def test_packing_loses_nothing(mode: str, dtype: torch.dtype, shape: tuple[int, int, int]) -> None:
    w = Inputs("pack", shape).normal(*shape, dtype=dtype)
    assert same_bytes(kernels.Fast(mode).pack(w).plain(), w)


@every_mode
@by_dtype
@pytest.mark.parametrize("of", ACTIVATIONS, ids=["fp32-weight", "bf16-weight"])
@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (1, 200, 65), (7, 33, 96), (37, 130, 257), (70, 64, 64)]
)
def test_linear(
    mode: str, dtype: torch.dtype, of: torch.dtype, shape: tuple[int, int, int]
) -> None:
    """Within the bound of K products in any order, and every row as it is alone."""
    rows, columns, length = shape
    draw, fast = Inputs("linear", shape), kernels.Fast(mode)
    x, w = draw.normal(rows, length, dtype=dtype), draw.normal(columns, length, dtype=of)
    packed = fast.pack(w.unsqueeze(0))
    found = fast.linear(x, packed, torch.float32)
    exact, size = x.double() @ w.double().T, x.double().abs() @ w.double().abs().T
    assert_within(found, exact, rounded(2 * gamma(length + 2) * size, exact, torch.float32))
    for row in {0, rows // 2, rows - 1}:
        assert same_bytes(
            fast.linear(x[row : row + 1], packed, torch.float32), found[row : row + 1]
        )


@every_mode
@by_dtype
def test_many_rows_are_cut_to_pieces_without_a_trace(
    mode: str, dtype: torch.dtype, threads: None
) -> None:
    """Groups of none, few and many rows: the bytes of each row alone, on any number of threads."""
    draw, fast = Inputs("many"), kernels.Fast(mode)
    bounds = torch.tensor([0, 0, 20, 700, 1300], dtype=torch.int32)
    x, w = draw.normal(1300, 70, dtype=dtype), fast.pack(draw.normal(4, 50, 70, dtype=dtype))
    torch.set_num_threads(1)
    found = fast.grouped_linear(x, w, bounds)
    for count in (2, 3):
        torch.set_num_threads(count)
        assert same_bytes(fast.grouped_linear(x, w, bounds), found)
    for row, group in ((0, 1), (19, 1), (20, 2), (275, 2), (276, 2), (699, 2), (700, 3), (1299, 3)):
        ends = (torch.arange(5) > group).int()
        alone = fast.grouped_linear(x[row : row + 1], w, ends)
        assert same_bytes(alone, found[row : row + 1])


@every_mode
@pytest.mark.parametrize("spread", [0, 1, 2, 900])
@pytest.mark.parametrize("length", [17, 255, 256, 1000, 4099])
def test_topk_among_equals(mode: str, length: int, spread: int) -> None:
    """Few different scores, all equal, and NaN and -0 among them: what a stable sort chooses."""
    fast, draw = kernels.Fast(mode), Inputs("equals", length, spread)
    scores = (draw.normal(3, length) * spread).round() / 4
    scores[1, :: length // 5] = torch.nan
    scores[2] = scores[2].clamp(min=0) * -0.0
    order = torch.where(scores.isnan(), torch.inf, scores).sort(descending=True, stable=True)
    for k in (1, length // 2, length - 1):
        found = fast.topk(scores, torch.full((3,), length, dtype=torch.int32), k)
        assert torch.equal(found, order.indices[:, :k].sort(dim=1).values.int())


@every_mode
@by_dtype
def test_linear_of_strided_rows(mode: str, dtype: torch.dtype) -> None:
    draw, fast = Inputs("strided"), kernels.Fast(mode)
    wide, packed = draw.normal(9, 80, dtype=dtype), fast.pack(draw.normal(1, 40, 50, dtype=dtype))
    inside = wide[:, 7:57]
    assert same_bytes(
        fast.linear(inside, packed, dtype), fast.linear(inside.clone(), packed, dtype)
    )


@every_mode
@by_dtype
def test_experts_are_their_parts(mode: str, dtype: torch.dtype) -> None:
    """One call gives the bytes of dispatch, two grouped linears around swiglu, and combine."""
    draw, fast = Inputs("experts"), kernels.Fast(mode)
    experts, k, width = 6, 3, 40
    x, shared = draw.normal(21, 50, dtype=dtype), draw.normal(21, 50, dtype=dtype)
    ids, weights = draw.experts(21, k, experts), draw.uniform(21, k)
    gate_up = fast.pack(draw.normal(experts, 2 * width, 50, dtype=dtype, scale=0.2))
    down = fast.pack(draw.normal(experts, 50, width, dtype=dtype, scale=0.2))
    found = fast.experts(x, ids, weights, gate_up, down, shared)
    rows, offsets, slots = dispatch(x, ids, experts)
    hidden = fast.swiglu(fast.grouped_linear(rows, gate_up, offsets))
    places = torch.empty_like(slots)
    places[slots.long()] = torch.arange(slots.shape[0], dtype=torch.int32)
    parts = fast.grouped_linear(hidden, down, offsets)
    assert same_bytes(found, fast.combine(parts, places.view(21, k), weights, shared))


def test_an_expert_id_outside_is_refused() -> None:
    fast = kernels.Fast()
    w = fast.pack(torch.zeros(2, 4, 4))
    down = fast.pack(torch.zeros(2, 4, 2))
    ids = torch.tensor([[2]], dtype=torch.int32)
    with pytest.raises(IndexError, match="an expert id outside"):
        fast.experts(torch.zeros(1, 4), ids, torch.ones(1, 1), w, down, None)


class Seen:
    """Tokens of one sequence with lists of rows from all of them to few."""

    def __init__(self, dtype: torch.dtype, heads: int, length: int, tokens: int) -> None:
        draw = Inputs("seen", heads, length)
        self.rows = draw.normal(length, 72, dtype=dtype)
        self.cache, table = paged([self.rows], 16)
        self.context = PagedContext(
            table,
            torch.zeros(tokens, dtype=torch.int32),
            torch.arange(length - tokens + 1, length + 1).int(),
            length,
        )
        self.query = draw.normal(tokens, heads, 48, dtype=dtype)
        self.turned = draw.normal(tokens, heads, 24, dtype=dtype)
        self.indices = torch.full((tokens, length), -1, dtype=torch.int32)
        for token in range(tokens):
            visible = length - tokens + 1 + token
            count = max(1, visible // (1 + token % 7))  # both sides of what is worth sharing
            chosen = draw.permutation(visible)[:count].sort().values
            self.indices[token, :count] = chosen.int()

    def run(self, fast: "kernels.Fast", indices: Tensor | None, at: slice = slice(None)) -> Tensor:
        context = PagedContext(
            self.context.page_table,
            self.context.sequence[at],
            self.context.lengths[at],
            self.context.max_length,
        )
        chosen = None if indices is None else indices[at]
        found: Tensor = fast.attention(
            self.query[at], self.turned[at], self.cache, context, 0.15, chosen
        )
        return found


@every_mode
@by_dtype
@pytest.mark.parametrize("heads", [1, 8, 20])
@pytest.mark.parametrize("selected", [True, False])
def test_attention_alone_and_on_threads(
    mode: str, dtype: torch.dtype, heads: int, selected: bool, threads: None
) -> None:
    """Shared rows, own rows, splits on threads and merged afterwards: the same bytes."""
    case, fast = Seen(dtype, heads, 610, 19), kernels.Fast(mode)
    indices = case.indices if selected else None
    torch.set_num_threads(1)
    found = case.run(fast, indices)
    reference = attention_op.reference(
        case.query, case.turned, case.cache, case.context, 0.15, indices
    )
    unit = 2.0**-8 if dtype == torch.bfloat16 else 64 * U
    torch.testing.assert_close(found.double(), reference.double(), rtol=4 * unit, atol=8 * unit)
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        assert same_bytes(case.run(fast, indices), found)
        for token in (0, 6, 11, 18):
            alone = case.run(fast, indices, slice(token, token + 1))
            assert same_bytes(alone, found[token : token + 1])


@every_mode
@by_dtype
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_bad_row_reaches_those_that_see_it(
    mode: str, dtype: torch.dtype, bad: float, threads: None
) -> None:
    """Sharing rows with a neighbour that sees NaN changes no bit of one that does not."""
    case, fast = Seen(dtype, 8, 300, 9), kernels.Fast(mode)
    before = case.run(fast, case.indices)
    row = 123
    case.cache.tensor[case.context.slots(8, 16)[row]] = bad
    sees = (case.indices == row).any(1)
    assert bool(sees.any())
    assert not bool(sees.all())
    for count in (1, 2):
        torch.set_num_threads(count)
        after = case.run(fast, case.indices)
        assert bool(after[sees].isnan().all())
        assert same_bytes(after[~sees], before[~sees])


@every_mode
def test_a_token_without_rows_gets_zeros(mode: str) -> None:
    case, fast = Seen(torch.float32, 2, 40, 3), kernels.Fast(mode)
    case.indices[1] = -1
    found = case.run(fast, case.indices)
    assert same_bytes(found[1], torch.zeros_like(found[1]))


@every_mode
@by_dtype
@pytest.mark.parametrize("shape", [(5, 40, 130, 3), (32, 128, 700, 20), (17, 24, 33, 33)])
def test_selection_is_topk_of_the_scores(
    mode: str, dtype: torch.dtype, shape: tuple[int, int, int, int], threads: None
) -> None:
    heads, width, length, tokens = shape
    draw, fast = Inputs("select", shape), kernels.Fast(mode)
    keys, table = paged([draw.normal(length, width, dtype=dtype)], 16)
    lengths = torch.arange(length - tokens + 1, length + 1).int()
    context = PagedContext(table, torch.zeros(tokens, dtype=torch.int32), lengths, length)
    q, w = draw.normal(tokens, heads, width, dtype=dtype), draw.normal(tokens, heads)
    torch.set_num_threads(1)
    scores = fast.index_scores(q, w, keys, context, 0.1)
    for k in (1, 16, length - 1, length + 3):
        expected = fast.topk(scores, lengths, k)
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            assert same_bytes(fast.dsa_select(q, w, keys, context, 0.1, k), expected)


def test_what_lies_outside_is_refused() -> None:
    """A slot, a position and a page that would be written or read outside of their tensors."""
    fast = kernels.Fast()
    cache = Cache(2, 4, 8, torch.float32, torch.zeros(8, 8))
    with pytest.raises(IndexError, match="slot 8 is outside of the cache's 8"):
        fast.cache_write(cache.tensor, torch.zeros(1, 8), torch.tensor([8], dtype=torch.int32))
    with pytest.raises(IndexError, match="position 5 is outside of the 5 of the table"):
        fast.rope(
            torch.zeros(1, 1, 4), torch.tensor([5], dtype=torch.int32), torch.zeros(5, 4), True
        )
    one = torch.ones(1, dtype=torch.int32)
    beyond = PagedContext(torch.tensor([[7]], dtype=torch.int32), one - 1, one * 3, 3)
    with pytest.raises(IndexError, match="a page outside of the cache"):
        fast.attention(torch.zeros(1, 1, 6), torch.zeros(1, 1, 2), cache, beyond, 1.0, None)
    with pytest.raises(IndexError, match="a page outside of the cache"):
        fast.dsa_select(torch.zeros(1, 1, 8), torch.ones(1, 1), cache, beyond, 1.0, 1)


def test_weights_of_another_backend_are_refused() -> None:
    fast = CpuBackend.in_profile(Numerics.FAST)(0)
    plain = CpuBackend(0).prepare_weight(WeightRole.LINEAR, torch.zeros(2, 3))
    with pytest.raises(TypeError, match="was prepared by another backend"):
        fast.linear(torch.zeros(1, 3), plain)
