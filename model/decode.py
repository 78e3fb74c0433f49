"""Decode steps, recorded once for each shape and replayed where the backend can.

What a recording reads lies in buffers of its own, which every step fills; the longest visible
length is rounded up, since a length that only bounds the others changes no bit.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from glm5_hal import PagedContext
from glm5_hal.model.glm5 import GLM5
from glm5_hal.model.kv_cache import PAGE_SIZE, KVCache, Step


@dataclass(frozen=True)
class _Recording:
    """A recorded step.

    Attributes:
        step: the buffers that it reads.
        hidden: [T, D], what it leaves.
        replay: runs it.
    """

    step: Step
    hidden: Tensor
    replay: Callable[[], None]


class Decoder:
    """Runs decode steps of a model on one cache.

    Args:
        model: to run.
        cache: whose rows the steps write and read.
        recorded: whether to record; without, and where the backend or several ranks do not allow
            it, every step is run as it comes.
    """

    def __init__(self, model: GLM5, cache: KVCache, *, recorded: bool = True) -> None:
        self._model = model
        self._cache = cache
        # several ranks ask the device how many rows each expert has
        self._recorded = recorded and model.ranks.size == 1
        self._recordings: dict[tuple[int, int, int], _Recording] = {}

    def hidden(self, step: Step) -> Tensor:
        """The step's [T, D] normed for the head; valid until the next step."""
        # who watches op calls would see none of a replay
        watched = bool(self._model.runtime.observers)
        recording = self._recording(step) if self._recorded and not watched else None
        if recording is None:
            return self._model.forward(step, self._cache)
        _fill(recording.step, step)
        recording.replay()
        return recording.hidden

    def _recording(self, step: Step) -> _Recording | None:
        """The recording for steps of this shape, made if there is none yet."""
        sequences, pages = step.context.page_table.shape
        room = 1 << (pages - 1).bit_length()
        key = (step.ids.shape[0], sequences, room)
        if key not in self._recordings:
            made = self._record(step, room)
            if made is None:
                self._recorded = False
                return None
            self._recordings[key] = made
        return self._recordings[key]

    def _record(self, step: Step, room: int) -> _Recording | None:
        buffers, model = _buffers(step, room), self._model
        _fill(buffers, step)
        hidden = torch.empty(
            (step.ids.shape[0], model.config.hidden_size),
            dtype=model.dtype,
            device=step.ids.device,
        )

        def run() -> None:
            hidden.copy_(model.forward(buffers, self._cache))

        replay = model.runtime.backend.record(run)
        return None if replay is None else _Recording(buffers, hidden, replay)


def _buffers(step: Step, room: int) -> Step:
    """A step of the same shape in tensors of its own, with `room` pages a sequence."""
    context = step.context
    table = context.page_table.new_full((context.page_table.shape[0], room), -1)
    return Step(
        ids=torch.empty_like(step.ids),
        positions=torch.empty_like(step.positions),
        slots=torch.empty_like(step.slots),
        context=PagedContext(
            page_table=table,
            sequence=torch.empty_like(context.sequence),
            lengths=torch.empty_like(context.lengths),
            max_length=room * PAGE_SIZE,
        ),
        counts=step.counts,
    )


def _fill(buffers: Step, step: Step) -> None:
    """Copy a step into buffers; what stands behind its own pages is never read."""
    goal, source = buffers.context, step.context
    pages = source.page_table.shape[1]
    goal.page_table[:, :pages].copy_(source.page_table)
    goal.sequence.copy_(source.sequence)
    goal.lengths.copy_(source.lengths)
    buffers.ids.copy_(step.ids)
    buffers.positions.copy_(step.positions)
    buffers.slots.copy_(step.slots)
