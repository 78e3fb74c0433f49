"""The paged cache of a model: which pages a sequence owns, and where its next tokens go."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from glm5_hal import Cache, HalError, PagedContext, Runtime
from glm5_hal.model.config import ModelConfig

PAGE_SIZE = 64


class CacheError(HalError):
    """The cache cannot take what was asked: full, or beyond the model's longest sequence."""


@dataclass(frozen=True)
class LayerCache:
    """Storage of one layer.

    Attributes:
        latent: normed latents and rotated shared keys, width C + R.
        index_keys: the indexer's keys, width Di; None where the layer has no indexer.
    """

    latent: Cache
    index_keys: Cache | None


@dataclass(frozen=True)
class Step:
    """Packed tokens of one forward call, on the device.

    Attributes:
        ids: [T] int32.
        positions: [T] int32, place of each token in its sequence.
        slots: [T] int32, where its cache rows go.
        context: what each token sees, itself included.
        counts: tokens of each sequence, in order; they sum to T.
    """

    ids: Tensor
    positions: Tensor
    slots: Tensor
    context: PagedContext
    counts: tuple[int, ...]

    @property
    def last(self) -> list[int]:
        """Index of each sequence's last token among the T."""
        ends = torch.tensor(self.counts).cumsum(0) - 1
        return [int(end) for end in ends]


@dataclass
class _Pages:
    """One sequence's pages and how many tokens it holds."""

    pages: list[int] = field(default_factory=list)
    length: int = 0


class KVCache:
    """Pages for a number of sequences, shared by all layers.

    Args:
        config: the model.
        runtime: whose backend allocates.
        tokens: room, in tokens, over all sequences; rounded up to pages of each sequence.
        sequences: how many sequences will share the room.
        dtype: of the cached rows.
        mtp: whether the MTP layer has a cache as well.
    """

    def __init__(
        self,
        config: ModelConfig,
        runtime: Runtime,
        *,
        tokens: int,
        sequences: int,
        dtype: torch.dtype,
        mtp: bool = False,
    ) -> None:
        self._config = config
        self._runtime = runtime
        # every sequence may leave its last page partly empty
        self._capacity = -(-tokens // PAGE_SIZE) + sequences
        self._free = list(reversed(range(self._capacity)))
        self._sequences: dict[int, _Pages] = {}
        self._next = 0
        self.layers = tuple(
            self._layer(config.is_full(i), dtype) for i in range(config.num_hidden_layers)
        )
        self.mtp = self._layer(True, dtype) if mtp else None

    def _layer(self, full: bool, dtype: torch.dtype) -> LayerCache:
        def allocate(width: int) -> Cache:
            return self._runtime.allocate_cache(self._capacity, PAGE_SIZE, width, dtype)

        latent = allocate(self._config.kv_lora_rank + self._config.qk_rope_head_dim)
        return LayerCache(latent, allocate(self._config.index_head_dim) if full else None)

    def add(self) -> int:
        """Begin an empty sequence; returns its handle."""
        self._next += 1
        self._sequences[self._next] = _Pages()
        return self._next

    def release(self, sequence: int) -> None:
        """Give the pages of a sequence back."""
        self._free.extend(self._sequences.pop(sequence).pages)

    def length(self, sequence: int) -> int:
        """Tokens that the sequence holds."""
        return self._sequences[sequence].length

    def truncate(self, sequence: int, length: int) -> None:
        """Forget the tokens from `length` on; their rows become stale and are never read."""
        pages = self._sequences[sequence]
        kept = -(-length // PAGE_SIZE)
        self._free.extend(pages.pages[kept:])
        del pages.pages[kept:]
        pages.length = min(pages.length, length)

    def append(self, tokens: Sequence[tuple[int, Sequence[int]]]) -> Step:
        """Make room for new tokens of some sequences and say where they go.

        Args:
            tokens: (sequence, ids) pairs, at least one, each sequence once, each with at least
                one id.

        Raises:
            CacheError: a token id outside the vocabulary, a sequence beyond the model's longest,
                or no free page. Nothing is changed then.
        """
        self._check(tokens)
        positions, slots, rows = [], [], []
        for row, (sequence, ids) in enumerate(tokens):
            pages = self._sequences[sequence]
            stop = pages.length + len(ids)
            while len(pages.pages) * PAGE_SIZE < stop:
                pages.pages.append(self._free.pop())
            for position in range(pages.length, stop):
                positions.append(position)
                slots.append(pages.pages[position // PAGE_SIZE] * PAGE_SIZE + position % PAGE_SIZE)
            rows += [row] * len(ids)
            pages.length = stop
        context = self._context([sequence for sequence, _ in tokens], rows, positions)
        return Step(
            ids=self._device([i for _, ids in tokens for i in ids]),
            positions=self._device(positions),
            slots=self._device(slots),
            context=context,
            counts=tuple(len(ids) for _, ids in tokens),
        )

    def _context(
        self, sequences: Sequence[int], rows: list[int], positions: list[int]
    ) -> PagedContext:
        owned = [self._sequences[sequence].pages for sequence in sequences]
        table = torch.full((len(owned), max(map(len, owned))), -1, dtype=torch.int32)
        for row, pages in enumerate(owned):
            table[row, : len(pages)] = torch.tensor(pages, dtype=torch.int32)
        return PagedContext(
            page_table=self._runtime.backend.to_device(table),
            sequence=self._device(rows),
            lengths=self._device([position + 1 for position in positions]),
            max_length=max(positions) + 1,
        )

    def _check(self, tokens: Sequence[tuple[int, Sequence[int]]]) -> None:
        if not tokens:
            raise CacheError("a step without sequences; it takes at least one")
        if len({sequence for sequence, _ in tokens}) != len(tokens):
            raise CacheError("a sequence is named twice in one step; join its tokens")
        needed = 0
        for row, (sequence, ids) in enumerate(tokens):
            if not ids:
                raise CacheError(f"sequence {row} has no tokens; a step takes at least one of each")
            for place, token in enumerate(ids):
                if not 0 <= token < self._config.vocab_size:
                    raise CacheError(
                        f"sequence {row}: token id {token} at place {place} is outside the "
                        f"vocabulary, 0 to {self._config.vocab_size - 1}"
                    )
            pages = self._sequences[sequence]
            stop = pages.length + len(ids)
            if stop > self._config.max_position_embeddings:
                raise CacheError(
                    f"sequence {row} would hold {stop} tokens; the model's longest sequence "
                    f"(max_position_embeddings) is {self._config.max_position_embeddings}"
                )
            needed += max(0, -(-stop // PAGE_SIZE) - len(pages.pages))
        if needed > len(self._free):
            raise CacheError(
                f"cache is full: {needed} pages of {PAGE_SIZE} tokens needed, {len(self._free)} "
                f"of {self._capacity} free; allocate more, or release a sequence"
            )

    def _device(self, values: list[int]) -> Tensor:
        return self._runtime.backend.to_device(torch.tensor(values, dtype=torch.int32))
