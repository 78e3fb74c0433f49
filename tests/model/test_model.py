"""The model's own promises: ops and nothing else, and bits that no schedule changes."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from glm5_hal import Backend, Capabilities, Numerics, Runtime
from glm5_hal.contract import OPS, Op
from glm5_hal.model.generate import sequence_logits
from glm5_hal.model.glm5 import GLM5, Options
from glm5_hal.model.kv_cache import KVCache, Step
from glm5_hal.model.load import load_model
from glm5_hal.plan import make_plan

Ids = Callable[..., list[list[int]]]
NewCheckpoint = Callable[..., Path]

LENGTHS = (150, 3, 64, 81)  # pages of 64 rows that are full, nearly empty, and one row over

MOVEMENT = {
    "alias",
    "cat",
    "clone",
    "copy_",
    "expand",
    "index",
    "select",
    "slice",
    "split_with_sizes",
    "squeeze",
    "t",
    "transpose",
    "unsqueeze",
    "view",
}
"""What the model may do without asking the backend: no arithmetic, and no rounding."""


def new_cache(model: GLM5, tokens: int, sequences: int = 1, mtp: bool = False) -> KVCache:
    return KVCache(
        model.config,
        model.runtime,
        tokens=tokens,
        sequences=sequences,
        dtype=model.dtype,
        mtp=mtp,
    )


def following(step: Step, ids: list[int]) -> Step:
    """The step as the MTP layer takes it: with the id after each position."""
    return replace(step, ids=torch.tensor(ids, dtype=torch.int32))


# --- nothing but ops ---


class Outside(TorchDispatchMode):
    """Notes what torch executes outside of a backend's implementations of ops."""

    def __init__(self, runtime: Runtime) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.executed: set[str] = set()
        self._runtime = runtime
        self._depth = 0

    def __torch_dispatch__(  # type: ignore[no-untyped-def]
        self, func, types, args=(), kwargs=None
    ):
        result = func(*args, **(kwargs or {}))
        if self._depth == 0:
            self.executed.add(func.overloadpacket.__name__)
        return result

    @contextmanager
    def watching(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        call = self._runtime.call

        def counted(op: Op[..., Any], *args: Any, **kwargs: Any) -> Any:
            # a default composition is this project's code, and promises the same
            native = self._runtime.plan.ops[op.name].source == "native"
            self._depth += native
            try:
                return call(op, *args, **kwargs)
            finally:
                self._depth -= native

        with monkeypatch.context() as patch, self:
            patch.setattr(self._runtime, "call", counted)
            yield


PARTS = {
    "mla": {"head_linear", "latent_attention"},
    "moe_experts": {"grouped_linear", "moe_dispatch", "moe_combine"},
}
"""What a backend does not call that has the whole."""


def test_the_model_computes_with_ops_alone(
    tiny: GLM5, random_ids: Ids, monkeypatch: pytest.MonkeyPatch
) -> None:
    [ids] = random_ids(40)
    cache = new_cache(tiny, 64, mtp=True)
    step = cache.append([(cache.add(), ids[:-1])])
    after = following(step, ids[1:])
    outside = Outside(tiny.runtime)
    called: set[str] = set()
    tiny.runtime.observers.append(lambda op, *rest: called.add(op.name))
    with outside.watching(monkeypatch):
        hidden = tiny.forward(step, cache)
        tiny.logits(hidden)
        tiny.draft(after, hidden, cache)
    tiny.runtime.observers.pop()
    assert outside.executed <= MOVEMENT
    assert "cat" in outside.executed
    unused = {"cache_read", "index_scores", "topk", "mla_expanded", "muon_orthogonalize", "sample"}
    everywhere = {name for name, op in OPS.items() if op.profile is None}
    for composite, parts in PARTS.items():
        if tiny.runtime.plan.ops[composite].source == "native":
            unused |= parts
    assert called == everywhere - unused


def test_the_guard_sees_arithmetic(
    tiny: GLM5, random_ids: Ids, monkeypatch: pytest.MonkeyPatch
) -> None:
    [ids] = random_ids(4)
    cache = new_cache(tiny, 64)
    step = cache.append([(cache.add(), ids)])
    outside = Outside(tiny.runtime)
    with outside.watching(monkeypatch):
        tiny.forward(step, cache) * 2
    assert outside.executed - MOVEMENT == {"mul"}


def test_watching_changes_nothing(tiny: GLM5, random_ids: Ids) -> None:
    [ids] = random_ids(30)
    names: list[str] = []
    watched = sequence_logits(tiny, [ids], probe=lambda name, value: names.append(name))
    assert torch.equal(watched[0], sequence_logits(tiny, [ids])[0])
    assert len(set(names)) == len(names)
    expected = {"embed", "final_norm", "layer0.index_scores_masked", "layer3.router_weights"}
    assert expected < set(names)
    assert "layer0.router_logits" not in names


# --- the same bits on any schedule ---


@pytest.fixture(scope="module", params=["fp32", "bf16"])
def model(request: pytest.FixtureRequest, new_checkpoint: NewCheckpoint, runtime: Runtime) -> GLM5:
    return load_model(new_checkpoint(storage=request.param), runtime)


def test_logits_do_not_depend_on_the_batch(model: GLM5, random_ids: Ids) -> None:
    ids = random_ids(*LENGTHS)
    batch = sequence_logits(model, ids)
    for sequence, row in zip(ids, batch, strict=True):
        assert torch.equal(sequence_logits(model, [sequence])[0], row)
    turned = sequence_logits(model, ids[::-1])
    for row, other in zip(batch, turned[::-1], strict=True):
        assert torch.equal(row, other)


@pytest.mark.parametrize("chunk", [7, 64])
def test_logits_do_not_depend_on_chunks(model: GLM5, chunk: int, random_ids: Ids) -> None:
    ids = random_ids(*LENGTHS)
    whole, parts = sequence_logits(model, ids), sequence_logits(model, ids, chunk=chunk)
    for row, other in zip(whole, parts, strict=True):
        assert torch.equal(row, other)


def test_decode_gives_the_bits_of_prefill(model: GLM5, random_ids: Ids) -> None:
    ids = random_ids(*LENGTHS)
    whole = sequence_logits(model, ids)
    cache = new_cache(model, sum(LENGTHS), len(LENGTHS))
    handles = [cache.add() for _ in ids]
    starts = [max(1, length - 17) for length in LENGTHS]
    begun = [(handle, s[:start]) for handle, s, start in zip(handles, ids, starts, strict=True)]
    model.forward(cache.append(begun), cache)
    for back in range(17):
        rows = [row for row, start in enumerate(starts) if start + back < LENGTHS[row]]
        places = [starts[row] + back for row in rows]
        fed = [(handles[row], [ids[row][p]]) for row, p in zip(rows, places, strict=True)]
        logits = model.logits(model.forward(cache.append(fed), cache))
        for row, place, given in zip(rows, places, logits, strict=True):
            assert torch.equal(given, whole[row][place]), (row, place)


def test_one_token_at_a_time_gives_the_bits_of_prefill(model: GLM5, random_ids: Ids) -> None:
    ids = random_ids(67, 5)
    for row, other in zip(
        sequence_logits(model, ids), sequence_logits(model, ids, chunk=1), strict=True
    ):
        assert torch.equal(row, other)


def test_logits_do_not_depend_on_pages(model: GLM5, random_ids: Ids) -> None:
    """Pages scattered by others' growth, and all memory full of NaN before it is written."""
    ids = random_ids(*LENGTHS)
    whole = sequence_logits(model, ids)
    cache = new_cache(model, 1000, 8)
    for layer in cache.layers:
        layer.latent.tensor.fill_(torch.nan)
        assert layer.index_keys is not None
        layer.index_keys.tensor.fill_(torch.nan)
    others = [cache.add() for _ in range(4)]
    for _ in range(2):
        model.forward(cache.append([(other, random_ids(70)[0]) for other in others]), cache)
    handles = [cache.add() for _ in ids]
    for round_, other in enumerate(others):
        pieces = [s[round_ * 40 : (round_ + 1) * 40] for s in ids]
        fed = [(handle, piece) for handle, piece in zip(handles, pieces, strict=True) if piece]
        logits = model.logits(model.forward(cache.append(fed), cache))
        cache.release(other)
        parts = [row[round_ * 40 : (round_ + 1) * 40] for row in whole]
        assert torch.equal(logits, torch.cat(parts))


def test_threads_change_nothing_in_this(
    new_checkpoint: NewCheckpoint, runtime: Runtime, random_ids: Ids
) -> None:
    """The other tests here run on one thread."""
    model = load_model(new_checkpoint(num_hidden_layers=2), runtime)
    ids = random_ids(70, 40)
    torch.set_num_threads(2)
    try:
        whole, alone = sequence_logits(model, ids), sequence_logits(model, ids[1:], chunk=23)
    finally:
        torch.set_num_threads(1)
    assert torch.equal(whole[1], alone[0])


def test_a_long_context_in_chunks(new_checkpoint: NewCheckpoint, runtime: Runtime) -> None:
    """Long enough for several tiles of keys in the scores and in the attention."""
    keys = {"num_hidden_layers": 2, "index_topk": 300, "num_nextn_predict_layers": 0}
    model = load_model(new_checkpoint(**keys), runtime)
    ids = [(7 * i * i + i) % 512 for i in range(700)]
    whole = sequence_logits(model, [ids])[0]
    assert torch.equal(sequence_logits(model, [ids], chunk=193)[0], whole)
    assert torch.equal(sequence_logits(model, [ids[:523]])[0], whole[:523])


def test_the_mtp_layer_in_chunks(model: GLM5, random_ids: Ids) -> None:
    [ids] = random_ids(90)
    cache = new_cache(model, 90, mtp=True)
    step = cache.append([(cache.add(), ids[:-1])])
    whole = model.draft(following(step, ids[1:]), model.forward(step, cache), cache)
    cache = new_cache(model, 90, mtp=True)
    sequence, parts = cache.add(), []
    for start, stop in [(0, 31), (31, 70), *((i, i + 1) for i in range(70, 89))]:
        step = cache.append([(sequence, ids[start:stop])])
        hidden = model.forward(step, cache)
        parts.append(model.draft(following(step, ids[start + 1 : stop + 1]), hidden, cache))
    for part in ("hidden", "feedback", "selected"):
        assert torch.equal(torch.cat([getattr(p, part) for p in parts]), getattr(whole, part))


def test_the_mtp_layer_attends_where_it_is_told_to(tiny: GLM5, random_ids: Ids) -> None:
    [ids] = random_ids(40)
    cache = new_cache(tiny, 64, mtp=True)
    step = cache.append([(cache.add(), ids[:-1])])
    after, hidden = following(step, ids[1:]), tiny.forward(step, cache)
    own = tiny.draft(after, hidden, cache)
    assert cache.mtp is not None
    assert cache.mtp.index_keys is not None
    keys = cache.mtp.index_keys.tensor
    written = keys.clone()
    keys.zero_()
    same = tiny.draft(after, hidden, cache, own.selected)
    assert torch.equal(same.hidden, own.hidden)
    assert torch.equal(keys[step.slots], written[step.slots])  # for a later step of its own
    first = own.selected.clone()
    first[30:] = torch.arange(16, dtype=torch.int32)
    other = tiny.draft(after, hidden, cache, first)
    assert torch.equal(other.selected, first)
    assert torch.equal(other.hidden[:30], own.hidden[:30])
    assert not any(
        torch.equal(a, b) for a, b in zip(other.hidden[30:], own.hidden[30:], strict=True)
    )


# --- what a token may depend on ---


def test_a_token_changes_no_earlier_row(tiny: GLM5, random_ids: Ids) -> None:
    [ids] = random_ids(40)
    for place in (39, 20):
        changed = [*ids[:place], (ids[place] + 1) % 512, *ids[place + 1 :]]
        before, after = (sequence_logits(tiny, [s])[0] for s in (ids, changed))
        assert torch.equal(before[:place], after[:place])
        assert not torch.equal(before[place], after[place])


def test_rows_with_no_more_keys_than_topk_attend_to_all(
    tiny: GLM5, new_checkpoint: NewCheckpoint, runtime: Runtime, random_ids: Ids
) -> None:
    dense = load_model(new_checkpoint(index_topk=4096), runtime)
    [ids] = random_ids(40)
    some, all_ = (sequence_logits(model, [ids])[0] for model in (tiny, dense))
    assert torch.equal(some[:16], all_[:16])
    assert not any(torch.equal(a, b) for a, b in zip(some[16:], all_[16:], strict=True))


def test_a_shared_layer_attends_where_the_full_one_before_it_does(
    new_checkpoint: NewCheckpoint, runtime: Runtime, random_ids: Ids
) -> None:
    types = ["full", "shared", "shared", "full"]
    model = load_model(new_checkpoint(indexer_types=types), runtime)
    seen: dict[str, Tensor] = {}
    sequence_logits(model, random_ids(40), probe=seen.__setitem__)
    chosen = [seen[f"layer{layer}.topk_indices"] for layer in range(4)]
    assert torch.equal(chosen[0], chosen[1])
    assert torch.equal(chosen[0], chosen[2])
    assert not torch.equal(chosen[0], chosen[3])
    assert "layer1.index_scores_masked" not in seen


def test_equal_scores_choose_the_first_positions_at_any_length(
    new_checkpoint: NewCheckpoint, runtime: Runtime, random_ids: Ids
) -> None:
    def no_preference(tensors: dict[str, Tensor]) -> None:
        for name, tensor in tensors.items():
            if name.endswith("weights_proj.weight"):
                tensor.zero_()

    model = load_model(new_checkpoint(edit=no_preference), runtime)
    [ids] = random_ids(48)
    seen: dict[str, Tensor] = {}
    whole = sequence_logits(model, [ids], probe=seen.__setitem__)[0]
    for layer in range(4):
        scores = seen[f"layer{layer}.index_scores_masked"]
        assert scores[47].view(torch.int32).eq(0).all()  # +0.0, to the bit
        selected = seen[f"layer{layer}.topk_indices"]
        assert torch.equal(selected[15:], torch.arange(16, dtype=torch.int32).expand(33, -1))
    assert torch.equal(sequence_logits(model, [ids[:32]])[0], whole[:32])
    assert torch.equal(sequence_logits(model, [ids], chunk=5)[0], whole)


# --- the parts that may be chosen ---


def test_the_latent_epsilon_is_wired(tiny_path: Path, runtime: Runtime, random_ids: Ids) -> None:
    [ids] = random_ids(30)
    given = {
        eps: sequence_logits(load_model(tiny_path, runtime, latent_eps=eps), [ids])[0]
        for eps in (None, 1e-5, 1e-6)
    }
    assert torch.equal(given[None], given[1e-5])
    assert 1e-6 < (given[1e-5] - given[1e-6]).abs().max() < 1e-3


def test_the_expanded_form_agrees(tiny: GLM5, tiny_path: Path, random_ids: Ids) -> None:
    other = load_model(tiny_path, tiny.runtime, options=Options(mla_form="expanded"))
    ids = random_ids(60, 17)
    for a, b in zip(sequence_logits(tiny, ids), sequence_logits(other, ids), strict=True):
        assert 0 < (a - b).abs().max() <= 5e-6
    assert torch.equal(sequence_logits(other, ids, chunk=7)[1], sequence_logits(other, ids[1:])[0])


def test_the_mtp_layer_needs_weights_and_a_cache(
    tiny: GLM5, new_checkpoint: NewCheckpoint, runtime: Runtime
) -> None:
    without = load_model(new_checkpoint(mtp=False), runtime)
    for model, mtp in ((tiny, False), (without, True)):
        cache = new_cache(model, 8, mtp=mtp)
        step = cache.append([(cache.add(), [1, 2])])
        with pytest.raises(ValueError, match="no MTP layer, or the cache was made without one"):
            model.draft(step, model.forward(step, cache), cache)


# --- a backend from elsewhere ---


def answer(op: Op[..., Any]) -> Callable[..., Any]:
    """A backend's method that runs the reference."""

    def method(self: Backend, *args: Any, **kwargs: Any) -> Any:
        return op.reference(*args, **kwargs)

    me = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = [me, *op.signature.parameters.values()]
    method.__signature__ = op.signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return method


class References(Backend):
    """Every op as the contract defines it, in float64."""

    name = "references"
    capabilities = Capabilities(dtypes=frozenset({torch.float32, torch.bfloat16}))

    vars().update({name: answer(op) for name, op in OPS.items()})

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")


@pytest.fixture(scope="module")
def references() -> Runtime:
    plan = make_plan(References, 0, Numerics.FAST)
    offered = [name for name, op in OPS.items() if op.profile is None]
    sources = {plan.ops[name].source for name in offered}
    assert sources == {"native"}
    return Runtime(plan, References())


def test_the_references_are_a_backend_and_agree(
    tiny: GLM5, tiny_path: Path, references: Runtime, random_ids: Ids
) -> None:
    exact = load_model(tiny_path, references)
    ids = random_ids(60, 17)
    seen: tuple[dict[str, Tensor], ...] = ({}, {})
    logits = [
        sequence_logits(model, ids, probe=into.__setitem__)
        for model, into in zip((tiny, exact), seen, strict=True)
    ]
    for a, b in zip(*logits, strict=True):
        assert (a - b).abs().max() <= 1e-5
    for name, value in seen[0].items():
        if name.endswith(("topk_indices", "router_indices")):
            assert torch.equal(value, seen[1][name]), name
    assert torch.equal(sequence_logits(exact, ids, chunk=7)[0], logits[1][0])
