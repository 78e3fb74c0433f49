"""The order of a benchmark: which process measures what, and when.

Sides take turns, A B A B, so that a drift of the machine meets both. Ops are timed by a pair of
new processes a round, each op by one right after the other; a model by a new process a run.
"""

import datetime
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from glm5_hal.conformance.bench import floor, instructions, peer
from glm5_hal.conformance.bench.cases import OpCase
from glm5_hal.conformance.bench.child import NEW_TOKENS
from glm5_hal.conformance.bench.children import Child, Children, NotRunError
from glm5_hal.conformance.bench.peaks import Peaks
from glm5_hal.conformance.bench.plain_torch import WITHOUT
from glm5_hal.conformance.bench.results import OURS, ModelResult, OpResult, Report, Where
from glm5_hal.conformance.errors import UnusableError
from glm5_hal.conformance.machine import Machine
from glm5_hal.conformance.subjects import DTYPES
from glm5_hal.model.config import ModelConfig
from glm5_hal.model.params import parameter_table

Observer = Callable[[int, int, str], None]
"""Called with (runs done, runs in all, what runs now)."""

_WIDTHS = {True: 4096, False: 8192}
"""Of the product that shows a peak, on the CPU and elsewhere."""
_HEADROOM = 0.95
"""Of free memory; what needs more is not begun."""


@dataclass(frozen=True)
class Settings:
    """How to measure.

    Attributes:
        backend: ``name[:index]``; None: from the environment.
        numerics: profile; None: from the environment.
        dtype: ``bf16`` or ``fp32``.
        threads: of each process.
        repeats: rounds.
        budget: seconds for the samples of one op in one process.
        width: of the product that shows a peak; None: what suits the device.
    """

    backend: str | None
    numerics: str | None
    dtype: str
    threads: int
    repeats: int
    budget: float = 1.0
    width: int | None = None


@dataclass(frozen=True)
class Model:
    """What `--model` asks for.

    Attributes:
        name: as given.
        directory: of the checkpoint.
        config: its configuration.
        contexts: prompt lengths.
        peer: ``transformers``, ``torch``, or empty for none.
    """

    name: str
    directory: Path
    config: ModelConfig
    contexts: Sequence[int]
    peer: str


def turns(sides: Sequence[str], rounds: int) -> Iterator[tuple[int, str]]:
    """(round, side) in the order of running: A B A B."""
    for number in range(rounds):
        for side in sides:
            yield number, side


class Bench:
    """One benchmark.

    Args:
        settings: how to measure.
        observe: told before each run.
    """

    def __init__(self, settings: Settings, observe: Observer) -> None:
        self._settings = settings
        self._observe = observe
        self._done = self._total = 0
        self._common = {
            "backend": settings.backend,
            "numerics": settings.numerics,
            "dtype": settings.dtype,
            "budget": settings.budget,
        }

    def run(self, cases: Sequence[OpCase], model: Model | None) -> Report:
        """Measure everything.

        Raises:
            BenchError: a process failed.
        """
        rounds = self._settings.repeats
        contexts = len(model.contexts) * len(_sides(model.peer)) if model else 0
        self._total = rounds * (sum(len(_sides(_peer_of(c))) for c in cases) + contexts)
        started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
        self._observe(0, self._total, "looking at the machine")
        with Child(self._settings.threads) as child:  # idle while the others measure
            described = child.ask("describe", **self._common)
            _check_room(model, described["free_bytes"], self._settings.dtype)
            before = self._peaks(child, described["device"])
            ops = self._ops(cases, described)
            found = self._contexts(model, described) if model else []
            self._observe(self._done, self._total, "looking at the machine again")
            peaks = before.best(self._peaks(child, described["device"]))
        where = Where(
            machine=Machine.here(described["device"], described["device_name"]),
            instruction_sets=instructions.sets(),
            threads=described["threads"],
            plan=described["plan"],
            clock_resolution=described["clock_resolution"],
            load=load,
            peaks=peaks,
        )
        name, beside = (model.name, peer.label(model.peer)) if model else ("", "")
        return Report(started, asdict(self._settings), where, ops, name, beside, found)

    def _peaks(self, child: Child, device: str) -> Peaks:
        width = self._settings.width or _WIDTHS[device == "cpu"]
        return Peaks(**child.ask("peaks", **self._common, device=device, width=width))

    # --- ops ---

    def _ops(self, cases: Sequence[OpCase], described: dict[str, Any]) -> list[OpResult]:
        results = [OpResult(case, _peer_of(case)) for case in cases]
        for result in results:
            answer = described["plan"]["ops"][result.case.op]
            if answer["source"] == "unsupported":
                result.not_run[OURS] = answer["where"]
        for _ in range(self._settings.repeats if cases else 0):
            with Children(self._settings.threads) as children:
                for result in results:
                    self._op(result, children, described["device"])
        return results

    def _op(self, result: OpResult, children: Children, device: str) -> None:
        """One round of one case."""
        case = result.case
        job = {
            **self._common,
            **{"op": case.op, "sizes": dict(case.sizes), "expression": case.expression},
            "device": device,
        }
        for side in _sides(result.peer):
            self._begin(f"{case.id}: {side}")
            if side in result.not_run or OURS in result.not_run:
                continue
            try:
                sample = children.of(side).ask("op", side=side, **job)
            except NotRunError as error:
                result.not_run[side] = str(error)
                result.samples.pop(side, None)
                continue
            result.samples.setdefault(side, []).append(sample)

    # --- a model ---

    def _contexts(self, model: Model, described: dict[str, Any]) -> list[ModelResult]:
        item = DTYPES[self._settings.dtype].itemsize
        results = []
        for context in model.contexts:
            floors = {
                "prefill": floor.prefill(model.config, context, item),
                "decode": floor.decode(model.config, context, item),
            }
            result = ModelResult(context, model.peer, floors)
            free = described["free_bytes"]
            if model.peer == "transformers" and free is not None:
                needed = peer.bytes_needed(model.config, context, item)
                if needed > _HEADROOM * free:
                    result.not_run[model.peer] = (
                        f"needs about {needed / 2**30:.0f} GiB, {free / 2**30:.0f} GiB are free"
                    )
            self._context(result, model, described["device"])
            results.append(result)
        return results

    def _context(self, result: ModelResult, model: Model, device: str) -> None:
        job = {
            **self._common,
            "device": device,
            "directory": str(model.directory),
            "context": result.context,
            "vocab": model.config.vocab_size,
        }
        for number, side in turns(_sides(model.peer), self._settings.repeats):
            self._begin(f"{result.context:,} tokens, round {number + 1}: {side}")
            if side in result.not_run:
                continue
            try:
                with Child(self._settings.threads) as child:
                    run = child.ask("model", side=side, **job)
            except NotRunError as error:
                result.not_run[side] = str(error)
                result.runs.pop(side, None)
                continue
            result.runs.setdefault(side, []).append(run)

    def _begin(self, what: str) -> None:
        self._observe(self._done, self._total, what)
        self._done += 1


def _check_room(model: Model | None, free: int | None, dtype: str) -> None:
    """Refuse a model whose weights alone do not fit.

    Raises:
        UnusableError: saying how much they need.
    """
    if model is None or free is None:
        return
    needed = parameter_table(model.config).total_without_mtp * DTYPES[dtype].itemsize
    if needed > _HEADROOM * free:
        raise UnusableError(
            f"{model.name} needs about {needed / 2**30:,.0f} GiB for its weights, and "
            f"{free / 2**30:,.0f} GiB are free; name a smaller configuration"
        )


def longest(config: ModelConfig) -> int:
    """The longest prompt that leaves room for the tokens that are timed behind it."""
    return config.max_position_embeddings - NEW_TOKENS


def _peer_of(case: OpCase) -> str:
    return "" if case.op in WITHOUT else "torch"


def _sides(other: str) -> tuple[str, ...]:
    return (OURS, other) if other else (OURS,)
