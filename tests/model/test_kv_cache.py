"""Pages of the cache: who owns them, where tokens go, and what an error leaves behind."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from glm5_hal import Cache, Runtime
from glm5_hal.model.config import ModelConfig
from glm5_hal.model.kv_cache import PAGE_SIZE, CacheError, KVCache, Step

TINY = ModelConfig.load("tiny")
SMALL = replace(TINY, num_hidden_layers=1, indexer_types=("full",), mlp_layer_types=("dense",))


@pytest.fixture(scope="module")
def new_cache(runtime: Runtime) -> Callable[..., KVCache]:
    def make(tokens: int = 300, sequences: int = 3, **keys: Any) -> KVCache:
        config, mtp = keys.pop("config", SMALL), keys.pop("mtp", False)
        config = replace(config, **keys)
        return KVCache(
            config, runtime, tokens=tokens, sequences=sequences, dtype=torch.float32, mtp=mtp
        )

    return make


def ids(count: int) -> list[int]:
    return [i % 512 for i in range(count)]


def visible_slots(step: Step, token: int) -> list[int]:
    return [int(slot) for slot in step.context.slots(token, PAGE_SIZE)]


def state(cache: KVCache, sequences: Sequence[int]) -> list[object]:
    """All that an append can change, seen from outside: lengths, and the room that is left."""
    lengths = [cache.length(sequence) for sequence in sequences]
    probe, free = cache.add(), 0
    while True:
        try:
            cache.append([(probe, ids(PAGE_SIZE))])
        except CacheError:
            cache.release(probe)
            return [*lengths, free]
        free += 1


def test_a_step_says_where_tokens_go(new_cache: Callable[..., KVCache]) -> None:
    cache = new_cache()
    a, b = cache.add(), cache.add()
    first = cache.append([(a, [5, 6]), (b, [7])])
    step = cache.append([(b, ids(70)), (a, [8, 9, 10])])
    for tensor in (step.ids, step.positions, step.slots, step.context.sequence):
        assert tensor.dtype is torch.int32
    assert first.ids.tolist() == [5, 6, 7]
    assert step.ids.tolist() == [*ids(70), 8, 9, 10]
    assert step.positions.tolist() == [*range(1, 71), 2, 3, 4]
    assert step.counts == (70, 3)
    assert step.last == [69, 72]
    context = step.context
    assert context.sequence.tolist() == [0] * 70 + [1] * 3
    assert context.lengths.tolist() == [*range(2, 72), 3, 4, 5]
    assert context.max_length == 71
    assert context.page_table.shape == (2, 2)
    assert context.page_table[1].tolist()[1] == -1  # the second sequence has one page
    assert visible_slots(step, 72)[:2] == first.slots.tolist()[:2]
    for token in range(73):
        assert visible_slots(step, token)[-1] == step.slots[token]
    assert (cache.length(a), cache.length(b)) == (5, 71)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (lambda a, b: [(a, [1]), (b, [2]), (a, [3])], "named twice"),
        (lambda a, b: [(a, [1]), (b, [])], "sequence 1 has no tokens"),
        (lambda a, b: [], "without sequences"),
        (lambda a, b: [(a, [1]), (b, [2, 512])], "sequence 1: token id 512 at place 1 is outside"),
        (lambda a, b: [(a, [-1])], "token id -1 at place 0 is outside the vocabulary, 0 to 511"),
        (lambda a, b: [(a, ids(1)), (b, ids(171))], "sequence 1 would hold 201 tokens; .* is 200"),
        (lambda a, b: [(a, ids(190)), (b, ids(99))], "cache is full: 5 pages of 64 .* 3 of 5 free"),
    ],
)
def test_an_error_changes_nothing(
    tokens: Callable[[int, int], list[tuple[int, list[int]]]],
    message: str,
    new_cache: Callable[..., KVCache],
) -> None:
    cache = new_cache(tokens=192, sequences=2, max_position_embeddings=200)
    a, b = cache.add(), cache.add()
    cache.append([(a, ids(10)), (b, ids(30))])
    assert state(cache, (a, b)) == [10, 30, 3]
    with pytest.raises(CacheError, match=message):
        cache.append(tokens(a, b))
    assert state(cache, (a, b)) == [10, 30, 3]
    assert cache.append([(b, [1])]).positions.tolist() == [30]


def test_every_sequence_may_leave_a_page_partly_empty(new_cache: Callable[..., KVCache]) -> None:
    cache = new_cache(tokens=3 * 65, sequences=3)
    cache.append([(cache.add(), ids(65)) for _ in range(3)])


def test_the_longest_sequence_fits(new_cache: Callable[..., KVCache]) -> None:
    cache = new_cache(tokens=200, sequences=1, max_position_embeddings=200)
    sequence = cache.add()
    cache.append([(sequence, ids(199))])
    assert cache.append([(sequence, [0])]).positions.tolist() == [199]
    with pytest.raises(CacheError, match="would hold 201 tokens"):
        cache.append([(sequence, [0])])


def test_truncating_gives_pages_back_and_keeps_the_rest(new_cache: Callable[..., KVCache]) -> None:
    cache = new_cache(tokens=256, sequences=1)
    sequence = cache.add()
    before = cache.append([(sequence, ids(200))])
    assert state(cache, [sequence]) == [200, 1]
    cache.truncate(sequence, 250)
    assert state(cache, [sequence]) == [200, 1]
    cache.truncate(sequence, 193)
    assert state(cache, [sequence]) == [193, 1]
    cache.truncate(sequence, 128)
    assert state(cache, [sequence]) == [128, 3]
    after = cache.append([(sequence, ids(1))])
    assert after.positions.tolist() == [128]
    assert visible_slots(after, 0)[:128] == before.slots.tolist()[:128]
    cache.truncate(sequence, 0)
    assert state(cache, [sequence]) == [0, 5]
    assert cache.append([(sequence, [3])]).positions.tolist() == [0]


def test_released_pages_are_used_again(new_cache: Callable[..., KVCache]) -> None:
    cache = new_cache(tokens=128, sequences=1)
    first = cache.add()
    pages = set(cache.append([(first, ids(192))]).context.page_table.flatten().tolist())
    second = cache.add()
    with pytest.raises(CacheError, match=r"0 of 3 free; .* release a sequence"):
        cache.append([(second, [1])])
    cache.release(first)
    again = cache.append([(second, ids(192))]).context.page_table.flatten().tolist()
    assert set(again) == pages
    with pytest.raises(KeyError):
        cache.length(first)


def test_storage_of_a_layer(new_cache: Callable[..., KVCache]) -> None:
    types = ("full", "shared", "shared", "full")
    cache = new_cache(tokens=100, sequences=2, config=TINY, indexer_types=types, mtp=True)

    def shape(storage: Cache | None) -> tuple[int, int] | None:
        return None if storage is None else storage.shape

    slots = 4 * PAGE_SIZE  # two pages, and one more for each sequence
    assert [shape(layer.latent) for layer in cache.layers] == [(slots, 32 + 8)] * 4
    keys = [shape(layer.index_keys) for layer in cache.layers]
    assert keys == [(slots, 16), None, None, (slots, 16)]
    assert cache.mtp is not None
    assert shape(cache.mtp.index_keys) == (slots, 16)
    assert new_cache(config=TINY).mtp is None


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["add", "append", "append", "append", "truncate", "release"]),
        st.lists(st.tuples(st.integers(0, 3), st.integers(1, 90)), min_size=1, max_size=3),
    ),
    min_size=1,
    max_size=25,
)


@given(actions=ACTIONS)
@settings(derandomize=True, max_examples=60, deadline=None, database=None)
def test_any_history_leaves_each_sequence_its_rows(
    actions: list[tuple[str, list[tuple[int, int]]]], new_cache: Callable[..., KVCache]
) -> None:
    """Against a memory of single slots: each token sees what its own sequence wrote."""
    cache = new_cache(tokens=320, sequences=1)
    pages = 6
    memory: dict[int, int] = {}
    written: dict[int, list[int]] = {}
    stamp = 0
    for action, operands in actions:
        handles = list(written)
        chosen = {handles[i % len(handles)]: n for i, n in operands} if handles else {}
        if action == "add":
            written[cache.add()] = []
        elif action == "release":
            for handle in chosen:
                cache.release(handle)
                del written[handle]
        elif action == "truncate":
            for handle, n in chosen.items():
                cache.truncate(handle, len(written[handle]) - n if n < len(written[handle]) else 0)
                del written[handle][-n:]
        elif chosen:
            used = {h: -(-len(rows) // PAGE_SIZE) for h, rows in written.items()}
            grown = used | {h: -(-(len(written[h]) + n) // PAGE_SIZE) for h, n in chosen.items()}
            if sum(grown.values()) > pages:
                with pytest.raises(CacheError, match="full"):
                    cache.append([(h, ids(n)) for h, n in chosen.items()])
                continue
            step = cache.append([(h, ids(n)) for h, n in chosen.items()])
            assert len(set(step.slots.tolist())) == len(step.slots)
            start = 0
            for handle, n in chosen.items():
                for slot in step.slots.tolist()[start : start + n]:
                    stamp += 1
                    memory[slot] = stamp
                    written[handle].append(stamp)
                start += n
            for last, handle in zip(step.last, chosen, strict=True):
                assert [memory[slot] for slot in visible_slots(step, last)] == written[handle]
        assert {h: cache.length(h) for h in written} == {h: len(r) for h, r in written.items()}
