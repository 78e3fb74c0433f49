"""Generation: the text does not depend on drafts, chunks or neighbours, and limits hold."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from glm5_hal import HalError, Runtime, ops, philox
from glm5_hal.model import generate as module
from glm5_hal.model.generate import (
    Emitted,
    PromptError,
    Sampling,
    Statistics,
    generate,
    sequence_logits,
)
from glm5_hal.model.glm5 import GLM5, Draft, Options
from glm5_hal.model.kv_cache import CacheError, KVCache, Step
from glm5_hal.model.load import load_model

Ids = Callable[..., list[list[int]]]
NewCheckpoint = Callable[..., Path]

VOCAB = 64
SMALL = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "first_k_dense_replace": 2,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "eos_token_id": [VOCAB - 1],
    "pad_token_id": VOCAB - 1,
}
NEW = 14


def join_token(tensors: dict[str, Tensor]) -> None:
    """The MTP layer takes the token's embedding and nothing of the hidden state."""
    join = tensors["model.layers.2.eh_proj.weight"]
    join.copy_(torch.cat((torch.eye(64), torch.zeros(64, 64)), dim=1))
    for name, tensor in tensors.items():
        if name.endswith("norm.weight"):
            tensor.fill_(1)


def predictable(tensors: dict[str, Tensor]) -> None:
    """Layers that add nothing: each token decides the next, and the MTP layer knows it."""
    join_token(tensors)
    for name, tensor in tensors.items():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            tensor.zero_()


def half_predictable(tensors: dict[str, Tensor]) -> None:
    """Layers that add enough to surprise the MTP layer now and then."""
    join_token(tensors)
    for name, tensor in tensors.items():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            tensor *= 0.25


@pytest.fixture(scope="module")
def load(new_checkpoint: NewCheckpoint, runtime: Runtime) -> Callable[..., GLM5]:
    def make(
        edit: Callable[[dict[str, Tensor]], None] | None = half_predictable,
        options: Options | None = None,
        **keys: Any,
    ) -> GLM5:
        mtp = keys.pop("mtp", True)
        return load_model(
            new_checkpoint(edit=edit, mtp=mtp, **SMALL | keys), runtime, options=options
        )

    return make


@pytest.fixture(scope="module")
def model(load: Callable[..., GLM5]) -> GLM5:
    return load()


@pytest.fixture(scope="module")
def prompts(random_ids: Ids) -> list[list[int]]:
    return random_ids(58, 1, 23, vocab=VOCAB)  # the first one grows into its second page


def texts(emitted: Iterable[Emitted], rows: int) -> list[list[int]]:
    joined: list[list[int]] = [[] for _ in range(rows)]
    for part in emitted:
        assert part.tokens
        joined[part.sequence] += part.tokens
    return joined


def run(model: GLM5, prompts: list[list[int]], **keys: Any) -> list[list[int]]:
    chosen: dict[str, Any] = {"max_new_tokens": NEW, "stop": ()} | keys
    return texts(generate(model, prompts, **chosen), len(prompts))


def greedy(logits: Tensor) -> int:
    return int(logits.argmax())


# --- the text ---


def test_greedy_takes_the_best_token_of_the_whole_text(
    model: GLM5, prompts: list[list[int]]
) -> None:
    for prompt, text in zip(prompts, run(model, prompts), strict=True):
        logits = sequence_logits(model, [prompt + text])[0]
        assert text == [greedy(row) for row in logits[len(prompt) - 1 : -1]]


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(0.8, 0.9, seed=7)], ids=str)
def test_drafts_and_chunks_do_not_change_the_text(
    model: GLM5, prompts: list[list[int]], sampling: Sampling
) -> None:
    plain = run(model, prompts, sampling=sampling)
    assert [len(text) for text in plain] == [NEW] * 3
    for speculative, chunk in ((0, 5), (1, 512), (2, 7), (3, 2), (3, 58), (5, 30)):
        statistics = Statistics()
        drafted = run(
            model,
            prompts,
            sampling=sampling,
            speculative=speculative,
            chunk=chunk,
            statistics=statistics,
        )
        assert drafted == plain, (speculative, chunk)
        if speculative:
            assert 0 < statistics.accepted < statistics.drafted


@pytest.mark.parametrize(
    "keys",
    [
        {"index_share_for_mtp_iteration": True},
        {"options": Options(mtp_feedback="block")},
        {"options": Options(mla_form="expanded")},
        {"indexer_types": ["full", "shared"]},
    ],
    ids=str,
)
def test_other_models_and_options(
    keys: dict[str, Any], load: Callable[..., GLM5], prompts: list[list[int]]
) -> None:
    model = load(**keys)
    statistics = Statistics()
    assert run(model, prompts, speculative=3, statistics=statistics) == run(model, prompts)
    assert 0 < statistics.accepted < statistics.drafted


def test_bf16(new_checkpoint: NewCheckpoint, runtime: Runtime, prompts: list[list[int]]) -> None:
    path = new_checkpoint(storage="bf16", edit=half_predictable, **SMALL)
    model = load_model(path, runtime)
    assert run(model, prompts, speculative=3, chunk=10) == run(model, prompts)


def test_neighbours_do_not_change_the_text(model: GLM5, prompts: list[list[int]]) -> None:
    alone = [run(model, [prompt], speculative=2)[0] for prompt in prompts]
    assert run(model, prompts[::-1], speculative=2) == alone[::-1]


def test_the_seed_decides(model: GLM5, prompts: list[list[int]]) -> None:
    def sampled(seed: int, batch: list[list[int]] = prompts) -> list[list[int]]:
        return run(model, batch, sampling=Sampling(1.0, seed=seed))

    assert sampled(1) == sampled(1)
    assert not any(a == b for a, b in zip(sampled(1), sampled(2), strict=True))
    same_prompt = sampled(1, [prompts[2]] * 3)
    assert len({tuple(text) for text in same_prompt}) == 3
    assert same_prompt[0] == sampled(1, [prompts[2]])[0]


def test_a_low_temperature_or_top_p_is_greedy(model: GLM5, prompts: list[list[int]]) -> None:
    for sampling in (Sampling(1e-4), Sampling(1.0, 1e-6, seed=3)):
        assert run(model, prompts, sampling=sampling) == run(model, prompts)


# --- drafts ---


@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("feedback", ["normed", "block"])
def test_drafts_that_are_always_right(
    feedback: Literal["normed", "block"],
    share: bool,
    load: Callable[..., GLM5],
    prompts: list[list[int]],
) -> None:
    model = load(predictable, Options(mtp_feedback=feedback), index_share_for_mtp_iteration=share)
    plain = run(model, prompts)
    for speculative in (1, 4):
        statistics = Statistics()
        drafted = run(model, prompts, speculative=speculative, statistics=statistics)
        assert drafted == plain
        assert statistics.steps == -(-(NEW - 1) // (speculative + 1))
        assert statistics.accepted == statistics.drafted == 3 * (NEW - 1 - statistics.steps)


def forgetful_drafts(model: GLM5, tokens: list[int], count: int) -> list[int]:
    """Drafts for what follows `tokens`, from a cache that holds nothing of earlier steps."""
    cache = KVCache(
        model.config, model.runtime, tokens=200, sequences=1, dtype=model.dtype, mtp=True
    )
    sequence = cache.add()
    step = cache.append([(sequence, tokens[:-1])])
    hidden = model.forward(step, cache)
    after = replace(step, ids=torch.tensor(tokens[1:], dtype=torch.int32))
    draft = model.draft(after, hidden, cache)
    share = draft.selected[-1:] if model.config.index_share_for_mtp_iteration else None
    drafts: list[int] = []
    while True:
        drafts.append(greedy(model.logits(draft.hidden[-1:])))
        if len(drafts) == count:
            return drafts
        step = cache.append([(sequence, drafts[-1:])])
        draft = model.draft(step, draft.feedback[-1:], cache, share)


@pytest.mark.parametrize(("feedback", "share"), [("normed", False), ("block", True)])
def test_drafts_are_those_of_a_cache_without_a_past(
    feedback: Literal["normed", "block"],
    share: bool,
    load: Callable[..., GLM5],
    prompts: list[list[int]],
) -> None:
    """Rows that rejected drafts left behind, and how a step was cut, leave no trace."""

    def hidden_matters(tensors: dict[str, Tensor]) -> None:
        half_predictable(tensors)
        tensors["model.layers.2.eh_proj.weight"][:, 64:] = 0.7 * torch.eye(64)
        # or else a norm would take back what the norm before it did
        tensors["model.layers.2.shared_head.norm.weight"].copy_(torch.linspace(0.3, 1.7, 64))

    model = load(
        hidden_matters, Options(mtp_feedback=feedback), index_share_for_mtp_iteration=share
    )
    plain = run(model, prompts)
    expected = Statistics()
    for prompt, text in zip(prompts, plain, strict=True):
        made, steps = 1, 0
        while made < NEW:
            steps += 1
            room = min(4, NEW - made - 1)
            drafts = forgetful_drafts(model, prompt + text[:made], room) if room else []
            agreed = next((i for i, d in enumerate(drafts) if d != text[made + i]), len(drafts))
            expected.drafted += len(drafts)
            expected.accepted += agreed
            made += agreed + 1
        expected.steps = max(expected.steps, steps)
    statistics = Statistics()
    run(model, prompts, speculative=4, chunk=9, statistics=statistics)
    assert statistics == expected
    assert 0 < expected.accepted < expected.drafted


def test_no_draft_is_made_that_cannot_be_used(
    load: Callable[..., GLM5], prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(predictable)
    tokens: list[int] = []
    draft = GLM5.draft

    def counted(self: GLM5, step: Step, *rest: Any) -> Draft:
        tokens.append(len(step.ids))
        return draft(self, step, *rest)

    monkeypatch.setattr(GLM5, "draft", counted)
    passes = {}
    for limit in (1, 2, 3, 4, 6, 7, 12):
        tokens.clear()
        run(model, prompts[2:], max_new_tokens=limit, speculative=4)
        passes[limit] = tokens.count(1)
    # a step's first draft costs no pass of its own, and the last token needs no draft
    assert passes == {1: 0, 2: 0, 3: 0, 4: 1, 6: 3, 7: 3, 12: 6}


# --- limits ---


@pytest.mark.parametrize("edit", [predictable, half_predictable])
def test_no_more_tokens_than_asked_for(
    edit: Callable[[dict[str, Tensor]], None], load: Callable[..., GLM5], prompts: list[list[int]]
) -> None:
    model = load(edit)
    whole = run(model, prompts)
    for limit in (1, 2, 5):
        for speculative in (0, 2, 5):
            statistics = Statistics()
            made = run(
                model,
                prompts,
                max_new_tokens=limit,
                speculative=speculative,
                statistics=statistics,
            )
            assert made == [text[:limit] for text in whole]
            assert statistics.steps <= limit - 1
            assert statistics.drafted <= 3 * max(0, limit - 2) * limit
    statistics = Statistics()
    run(model, prompts, max_new_tokens=1, speculative=5, statistics=statistics)
    assert statistics == Statistics()


@pytest.mark.parametrize("edit", [predictable, half_predictable])
def test_a_stop_token_ends_its_sequence_alone(
    edit: Callable[[dict[str, Tensor]], None], load: Callable[..., GLM5], prompts: list[list[int]]
) -> None:
    model = load(edit)
    whole = run(model, prompts)
    for token in {whole[0][0], whole[2][4]}:
        ends = [text.index(token) if token in text else NEW for text in whole]
        expected = [text[: end + 1] for text, end in zip(whole, ends, strict=True)]
        assert any(0 < len(text) < NEW for text in expected)
        for speculative in (0, 3):
            assert run(model, prompts, stop=[token], speculative=speculative) == expected


def test_the_configuration_says_where_to_stop(
    load: Callable[..., GLM5], prompts: list[list[int]]
) -> None:
    whole = run(load(), prompts)
    stops = [whole[0][3], whole[1][5]]
    model = load(eos_token_id=stops)
    assert run(model, prompts) == whole
    assert run(model, prompts, stop=None) == run(model, prompts, stop=stops)
    assert len(run(model, prompts, stop=None)[0]) <= 4


def test_the_longest_sequence(load: Callable[..., GLM5], random_ids: Ids) -> None:
    model = load(max_position_embeddings=70)
    [prompt] = random_ids(64, vocab=VOCAB)
    for speculative in (0, 3, 5):
        assert len(run(model, [prompt], max_new_tokens=6, speculative=speculative)[0]) == 6
    with pytest.raises(PromptError, match="come to 71; the model's longest sequence"):
        run(model, [[1], prompt], max_new_tokens=7)
    assert sequence_logits(model, [[1] * 70])[0].shape == (70, VOCAB)
    with pytest.raises(CacheError, match="sequence 1 would hold 71 tokens"):
        sequence_logits(model, [[1], [1] * 71])


@pytest.mark.parametrize(
    ("batch", "keys", "message"),
    [
        ([], {}, "no prompt given"),
        ([[1], []], {}, "prompt 1 is empty"),
        ([[1]], {"max_new_tokens": 0}, "max_new_tokens is 0, expected at least 1"),
        ([[1]], {"speculative": -1}, "speculative is -1"),
        ([[1]], {"chunk": -1}, "chunk is -1, expected at least 1"),
        ([[1], [2, 64]], {}, "sequence 1: token id 64 at place 1 is outside the vocabulary"),
    ],
)
def test_what_cannot_be_run(
    batch: list[list[int]], keys: dict[str, Any], message: str, model: GLM5
) -> None:
    with pytest.raises(HalError, match=message):
        run(model, batch, **keys)


def test_what_has_no_logits(model: GLM5) -> None:
    with pytest.raises(PromptError, match="no prompt given"):
        sequence_logits(model, [])
    with pytest.raises(PromptError, match="prompt 0 is empty"):
        sequence_logits(model, [[]])


def test_drafts_need_an_mtp_layer(load: Callable[..., GLM5]) -> None:
    model = load(None, mtp=False)
    with pytest.raises(PromptError, match="without an MTP layer"):
        run(model, [[1]], speculative=1)
    assert len(run(model, [[1]])[0]) == NEW


@pytest.mark.parametrize(
    "values", [(-1.0, 1.0), (float("nan"), 1.0), (float("inf"), 1.0), (1.0, 0.0), (1.0, 1.1)]
)
def test_sampling_that_makes_no_sense(values: tuple[float, float]) -> None:
    with pytest.raises(PromptError, match="expected a number"):
        Sampling(*values)


@given(
    lengths=st.lists(st.sampled_from([1, 57, 63, 64, 65, 127]), min_size=1, max_size=4),
    limit=st.integers(1, 9),
    speculative=st.integers(0, 5),
    chunk=st.integers(20, 200),
    stop=st.sets(st.integers(0, VOCAB - 1), max_size=3),
)
@settings(derandomize=True, max_examples=10, deadline=None, database=None)
def test_the_cache_is_large_enough_and_empty_in_the_end(
    lengths: list[int],
    limit: int,
    speculative: int,
    chunk: int,
    stop: set[int],
    model: GLM5,
    random_ids: Ids,
) -> None:
    caches: list[KVCache] = []

    class Kept(KVCache):
        def __init__(self, *args: Any, **keys: Any) -> None:
            super().__init__(*args, **keys)
            caches.append(self)

    prompts = random_ids(*lengths, vocab=VOCAB)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "KVCache", Kept)
        made = run(
            model,
            prompts,
            max_new_tokens=limit,
            speculative=speculative,
            chunk=chunk,
            stop=stop,
        )
    assert all(len(text) == limit or text[-1] in stop for text in made)
    [cache] = caches
    pages = cache.layers[0].latent.pages
    everything = [cache.add() for _ in range(pages)]
    cache.append([(sequence, [0]) for sequence in everything])  # one page each: all are free


def test_a_text_of_many_pages(load: Callable[..., GLM5]) -> None:
    model = load(predictable)
    [text] = run(model, [[7]], max_new_tokens=190, speculative=5)
    assert len(text) == 190
    assert text == [greedy(row) for row in sequence_logits(model, [[7, *text]])[0][:-1]]


# --- draws ---


def draw(runtime: Runtime, logits: Tensor, draws: Tensor, heat: float, top_p: float) -> Tensor:
    """How often each id was drawn, [V]."""
    rows = len(draws)
    with runtime:
        ids = ops.sample(
            logits.expand(rows, -1),
            torch.full((rows,), heat),
            torch.full((rows,), top_p),
            draws,
        )
    return torch.bincount(ids, minlength=logits.shape[0]).double()


@pytest.mark.parametrize("heat", [0.7, 1.0, 2.0])
def test_evenly_spread_draws_give_the_probabilities(heat: float, runtime: Runtime) -> None:
    logits = torch.tensor([0.3, -1.0, 2.0, 0.0, 0.3, -4.0, 1.1, 1.5])
    rows = 4096
    draws = torch.arange(rows, dtype=torch.int32) * (2**24 // rows) + 2**11
    p = torch.softmax(logits.double() / heat, -1)
    assert (draw(runtime, logits, draws, heat, 1.0) - p * rows).abs().max() <= 1
    # kept: the most likely ones before which less than 0.8 has accumulated
    kept = p * (p.sort(descending=True).values.cumsum(0) < 0.8).sum().add(1).gt(
        p.argsort(descending=True, stable=True).argsort()
    )
    drawn = draw(runtime, logits, draws, heat, 0.8)
    assert (drawn - kept / kept.sum() * rows).abs().max() <= 1
    assert drawn.gt(0).sum() < 8


def test_the_draws_of_a_run_are_uniform(runtime: Runtime) -> None:
    logits = torch.tensor([1.0, 0.5, 0.0, -0.5, -1.0, -1.5])
    rows = 5000
    draws = philox.uniform24(11, philox.stream_of("sampling"), 0, rows)
    expected = torch.softmax(logits.double(), -1) * rows
    drawn = draw(runtime, logits, torch.from_numpy(draws), 1.0, 1.0)
    assert ((drawn - expected) ** 2 / expected).sum() < 20.5  # chi-square of 5 degrees, p = 0.001
