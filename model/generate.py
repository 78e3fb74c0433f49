"""Running the model: logits of whole sequences, and generation with and without drafts."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from glm5_hal import HalError, ops, philox
from glm5_hal.model.decode import Decoder
from glm5_hal.model.glm5 import GLM5, Draft, Probe
from glm5_hal.model.kv_cache import KVCache, Step

DEFAULT_CHUNK = 512
"""Prompt tokens of each sequence that go through the layers at a time."""

_SAMPLING_STREAM = philox.stream_of("sampling")


class PromptError(HalError, ValueError):
    """A prompt that cannot be run."""


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen.

    Attributes:
        temperature: 0 takes the most likely token.
        top_p: mass of the most likely tokens that are kept, in (0, 1].
        seed: of the draws; sequence and position decide which draw is used, nothing else.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not (self.temperature >= 0 and self.temperature < float("inf")):
            raise PromptError(f"temperature is {self.temperature}, expected a number >= 0")
        if not 0 < self.top_p <= 1:
            raise PromptError(f"top_p is {self.top_p}, expected a number in (0, 1]")


@dataclass(frozen=True)
class Emitted:
    """New tokens of one sequence from one step."""

    sequence: int
    tokens: tuple[int, ...]


@dataclass
class Statistics:
    """What a generation did.

    Attributes:
        steps: forward passes of the main model after the prompt.
        drafted: tokens proposed by the MTP layer.
        accepted: of these, how many the main model would have chosen as well.
    """

    steps: int = 0
    drafted: int = 0
    accepted: int = 0


def sequence_logits(
    model: GLM5,
    sequences: Sequence[Sequence[int]],
    *,
    chunk: int | None = None,
    probe: Probe | None = None,
    before: Callable[[Sequence[int], Step], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Tensor]:
    """Logits of every position, one [length, vocabulary] float32 host tensor a sequence.

    Args:
        model: to run.
        sequences: token ids; lengths may differ.
        chunk: tokens of each sequence a forward pass; default: all at once.
        probe: sees intermediates of the packed tokens of each pass.
        before: told of each pass before it: which of `sequences` it holds, in order, and the step.
        progress: told (tokens done, tokens in all).

    Raises:
        PromptError: no sequences, or an empty one.
        CacheError: a token id or a length out of range.
    """
    _check_prompts(sequences)
    total = sum(map(len, sequences))
    cache = _cache(model, total, len(sequences), mtp=False)
    parts: list[list[Tensor]] = [[] for _ in sequences]
    done = 0
    for rows, step in _prefill(cache, [cache.add() for _ in sequences], sequences, chunk):
        if before is not None:
            before(rows, step)
        logits = model.runtime.backend.to_host(model.logits(model.forward(step, cache, probe)))
        for row, part in zip(rows, logits.split(step.counts), strict=True):
            parts[row].append(part)
        done += sum(step.counts)
        if progress is not None:
            progress(done, total)
    return [torch.cat(part) for part in parts]


def generate(
    model: GLM5,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    sampling: Sampling | None = None,
    speculative: int = 0,
    chunk: int = DEFAULT_CHUNK,
    stop: Sequence[int] | None = None,
    statistics: Statistics | None = None,
    recorded: bool = True,
) -> Iterator[Emitted]:
    """Generate for a ragged batch of prompts, yielding tokens as they are decided.

    With drafts every accepted token is the one that the main model chooses itself at that place
    (its draw depends on sequence and position only), so the output is that of no drafts.

    Args:
        model: to run.
        prompts: token ids of each sequence.
        max_new_tokens: most tokens a sequence.
        sampling: default: greedy.
        speculative: draft tokens a step, from the MTP layer.
        chunk: prompt tokens of each sequence a forward pass.
        stop: ids that end a sequence (they are emitted); default: the configuration's.
        statistics: filled in as the run proceeds.
        recorded: record the steps after the prompt and replay them, where the backend can.

    Raises:
        PromptError: no prompts, an empty one, or drafts without an MTP layer.
        CacheError: a token id or a length out of range.
    """
    _check_prompts(prompts)
    if max_new_tokens < 1:
        raise PromptError(f"max_new_tokens is {max_new_tokens}, expected at least 1")
    if speculative < 0:
        raise PromptError(f"speculative is {speculative}, expected a number of draft tokens >= 0")
    if speculative and model.weights.mtp is None:
        raise PromptError(
            "the model was loaded without an MTP layer, so there is nothing to draft with"
        )
    longest = max(map(len, prompts)) + max_new_tokens
    if longest > model.config.max_position_embeddings:
        raise PromptError(
            f"prompt and new tokens come to {longest}; the model's longest sequence "
            f"(max_position_embeddings) is {model.config.max_position_embeddings}"
        )
    batch = _Batch(
        model,
        prompts,
        sampling or Sampling(),
        set(model.config.eos_token_id if stop is None else stop),
        max_new_tokens,
        speculative,
        statistics or Statistics(),
        recorded,
    )
    yield from batch.run(prompts, chunk)


@dataclass(eq=False)
class _Sequence:
    """A sequence being generated.

    Attributes:
        row: its place in the batch.
        handle: in the cache.
        pending: decided token whose forward pass is still to come.
        made: tokens emitted so far.
        drafts: proposals for what follows `pending`.
    """

    row: int
    handle: int
    pending: int = -1
    made: int = 0
    drafts: tuple[int, ...] = ()


class _Batch:
    def __init__(
        self,
        model: GLM5,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        stop: set[int],
        limit: int,
        speculative: int,
        statistics: Statistics,
        recorded: bool,
    ) -> None:
        room = sum(map(len, prompts)) + len(prompts) * (limit + speculative)
        self._model = model
        self._cache = _cache(model, room, len(prompts), mtp=speculative > 0)
        self._decoder = Decoder(model, self._cache, recorded=recorded)
        self._sampling = sampling
        self._stop = stop
        self._limit = limit
        self._speculative = speculative
        self._statistics = statistics
        self._live = [_Sequence(row, self._cache.add()) for row in range(len(prompts))]

    def run(self, prompts: Sequence[Sequence[int]], chunk: int) -> Iterator[Emitted]:
        yield from self._prompt(prompts, chunk)
        while self._live:
            yield from self._step()

    def _prompt(self, prompts: Sequence[Sequence[int]], chunk: int) -> Iterator[Emitted]:
        """Run the prompts; each sequence's first token comes from its last piece."""
        handles = [sequence.handle for sequence in self._live]
        starts = list(self._live)
        for rows, step in _prefill(self._cache, handles, prompts, chunk):
            hidden = self._model.forward(step, self._cache)
            ending = [
                (place, starts[row])
                for place, row in enumerate(rows)
                if self._cache.length(starts[row].handle) == len(prompts[row])
            ]
            if ending:
                picked = self._choose(hidden, [(step.last[p], s) for p, s in ending])
                for (_, sequence), token in zip(ending, picked, strict=True):
                    yield from self._accept(sequence, [token])
            if self._speculative:
                self._draft(step, hidden, self._prompt_pieces(prompts, starts, rows, step))

    def _step(self) -> Iterator[Emitted]:
        """One pass over every live sequence: its decided token and its drafts."""
        live = list(self._live)
        drafts = [s.drafts[: self._limit - s.made - 1] for s in live]
        step = self._cache.append(
            [(s.handle, [s.pending, *d]) for s, d in zip(live, drafts, strict=True)]
        )
        hidden = self._decoder.hidden(step)
        self._statistics.steps += 1
        order = [s for s, count in zip(live, step.counts, strict=True) for _ in range(count)]
        chosen = iter(self._choose(hidden, list(enumerate(order))))
        verified = []
        for sequence, proposed in zip(live, drafts, strict=True):
            tokens = [next(chosen) for _ in range(len(proposed) + 1)]
            agreed = 0
            while agreed < len(proposed) and proposed[agreed] == tokens[agreed]:
                agreed += 1
            self._statistics.drafted += len(proposed)
            self._statistics.accepted += agreed
            before = self._cache.length(sequence.handle) - len(proposed) - 1
            self._cache.truncate(sequence.handle, before + agreed + 1)
            verified.append(tokens[: agreed + 1])
            yield from self._accept(sequence, verified[-1])
        if self._speculative and self._live:
            pieces = [
                _Piece(sequence, tuple(tokens) if sequence in self._live else (), ends=True)
                for sequence, tokens in zip(live, verified, strict=True)
            ]
            self._draft(step, hidden, pieces)

    def _accept(self, sequence: _Sequence, tokens: list[int]) -> Iterator[Emitted]:
        """Emit decided tokens up to a stop token or the limit; retire what has ended."""
        tokens = tokens[: self._limit - sequence.made]
        ends = [place for place, token in enumerate(tokens) if token in self._stop]
        if ends:
            tokens = tokens[: ends[0] + 1]
        sequence.made += len(tokens)
        sequence.pending = tokens[-1]
        if ends or sequence.made >= self._limit:
            self._live.remove(sequence)
            self._cache.release(sequence.handle)
        yield Emitted(sequence.row, tuple(tokens))

    def _choose(self, hidden: Tensor, places: list[tuple[int, _Sequence]]) -> list[int]:
        """Sample after each of `places` (row of `hidden`, its sequence)."""
        backend = self._model.runtime.backend
        rows = torch.tensor([place for place, _ in places], dtype=torch.int32)
        logits = self._model.logits(hidden[backend.to_device(rows)])
        count: dict[int, int] = {}
        draws = []
        for _, sequence in places:
            ahead = count.get(sequence.row, 0)
            count[sequence.row] = ahead + 1
            draws.append(_draw(self._sampling.seed, sequence.row, sequence.made + ahead))
        full = torch.ones(len(places))
        with self._model.runtime:
            ids = ops.sample(
                logits,
                backend.to_device(full * self._sampling.temperature),
                backend.to_device(full * self._sampling.top_p),
                backend.to_device(torch.tensor(draws, dtype=torch.int32)),
            )
        return [int(i) for i in backend.to_host(ids)]

    # --- drafts ---

    def _prompt_pieces(
        self,
        prompts: Sequence[Sequence[int]],
        sequences: list[_Sequence],
        rows: list[int],
        step: Step,
    ) -> list["_Piece"]:
        """What the MTP layer sees of a prompt step: behind the prompt stands the first token."""
        pieces = []
        for row, count in zip(rows, step.counts, strict=True):
            sequence, prompt = sequences[row], prompts[row]
            if sequence not in self._live:
                pieces.append(_Piece(sequence, (), ends=True))
                continue
            stop = self._cache.length(sequence.handle)
            ends = stop == len(prompt)
            following = [*prompt[stop - count + 1 : stop + 1], *([sequence.pending] * ends)]
            pieces.append(_Piece(sequence, tuple(following), ends))
        return pieces

    def _draft(self, step: Step, hidden: Tensor, pieces: list["_Piece"]) -> None:
        """Feed decided positions to the MTP layer, then loop it from the last of each sequence."""
        starts = [0, *itertools.accumulate(step.counts)]
        keep = [
            row
            for start, piece in zip(starts, pieces, strict=False)
            for row in range(start, start + len(piece.following))
        ]
        if not keep:
            return
        rows = self._device(keep).long()
        ids = self._device([token for piece in pieces for token in piece.following])
        draft = self._model.draft(_rows(step, rows, ids), hidden[rows], self._cache)
        lasts = itertools.accumulate(len(piece.following) for piece in pieces)
        going = [
            (last - 1, piece.sequence)
            for last, piece in zip(lasts, pieces, strict=True)
            if piece.following and piece.ends and self._room(piece.sequence) > 0
        ]
        if going:
            self._loop(draft, [row for row, _ in going], [sequence for _, sequence in going])

    def _room(self, sequence: _Sequence) -> int:
        """Drafts that can still be of use: the token after them is the last one."""
        return self._limit - sequence.made - 1

    def _loop(self, draft: Draft, rows: list[int], sequences: list[_Sequence]) -> None:
        """Propose tokens one after the other; nothing of it stays in the main model's cache."""
        lengths = [self._cache.length(sequence.handle) for sequence in sequences]
        started = list(sequences)
        for sequence in sequences:
            sequence.drafts = ()
        share = self._model.config.index_share_for_mtp_iteration
        selected = draft.selected[self._device(rows).long()] if share else None
        for number in range(1, self._speculative + 1):
            chosen = self._device(rows).long()
            tokens = self._greedy(draft.hidden[chosen])
            feedback = draft.feedback[chosen]
            for sequence, token in zip(sequences, tokens, strict=True):
                sequence.drafts = (*sequence.drafts, token)
            rows = [row for row, s in enumerate(sequences) if self._room(s) > number]
            if number == self._speculative or not rows:
                break
            sequences = [sequences[row] for row in rows]
            step = self._cache.append([(s.handle, [s.drafts[-1]]) for s in sequences])
            kept = self._device(rows).long()
            selected = None if selected is None else selected[kept]
            draft = self._model.draft(step, feedback[kept], self._cache, selected)
            rows = list(range(len(sequences)))
        for sequence, length in zip(started, lengths, strict=True):
            self._cache.truncate(sequence.handle, length)

    def _greedy(self, hidden: Tensor) -> list[int]:
        logits = self._model.logits(hidden)
        zeros = self._model.runtime.backend.to_device(torch.zeros(hidden.shape[0]))
        with self._model.runtime:
            ids = ops.sample(logits, zeros, zeros + 1, zeros.int())
        return [int(i) for i in self._model.runtime.backend.to_host(ids)]

    def _device(self, values: list[int]) -> Tensor:
        return self._model.runtime.backend.to_device(torch.tensor(values, dtype=torch.int32))


@dataclass(frozen=True)
class _Piece:
    """A sequence's part of a step, as the MTP layer sees it.

    Attributes:
        sequence: whose.
        following: the token after each of its first positions; empty leaves the part out.
        ends: whether drafting starts from its last position.
    """

    sequence: _Sequence
    following: tuple[int, ...]
    ends: bool


def _rows(step: Step, rows: Tensor, ids: Tensor) -> Step:
    """The tokens `rows` of a step with other ids at their positions."""
    context = replace(
        step.context, sequence=step.context.sequence[rows], lengths=step.context.lengths[rows]
    )
    return Step(ids, step.positions[rows], step.slots[rows], context, (ids.shape[0],))


def _prefill(
    cache: KVCache,
    handles: Sequence[int],
    sequences: Sequence[Sequence[int]],
    chunk: int | None,
) -> Iterator[tuple[list[int], Step]]:
    """Steps over whole sequences, `chunk` tokens of each at a time, with the rows they hold."""
    size = max(map(len, sequences)) if chunk is None else chunk
    if size < 1:
        raise PromptError(f"chunk is {chunk}, expected at least 1")
    for start in range(0, max(map(len, sequences)), size):
        pieces = [list(sequence[start : start + size]) for sequence in sequences]
        rows = [row for row, piece in enumerate(pieces) if piece]
        yield rows, cache.append([(handles[row], pieces[row]) for row in rows])


def _check_prompts(prompts: Sequence[Sequence[int]]) -> None:
    if not prompts:
        raise PromptError("no prompt given; expected at least one list of token ids")
    for row, prompt in enumerate(prompts):
        if not prompt:
            raise PromptError(f"prompt {row} is empty; the model needs at least one token")


def _cache(model: GLM5, tokens: int, sequences: int, *, mtp: bool) -> KVCache:
    return KVCache(
        model.config,
        model.runtime,
        tokens=tokens,
        sequences=sequences,
        dtype=model.dtype,
        mtp=mtp,
    )


def _draw(seed: int, row: int, place: int) -> int:
    """The draw of a sequence's `place`-th new token, in [0, 2^24)."""
    return int(philox.uniform24(seed, _SAMPLING_STREAM, (row << 32) + place, 1)[0])
