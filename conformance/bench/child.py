"""A process that runs one side of a benchmark: one JSON request a line, one JSON answer a line.

Whatever a library prints goes to stderr, so that stdout holds answers and nothing else.
"""

import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Protocol

import torch

from glm5_hal import Runtime, Unsupported, open_runtime, philox
from glm5_hal.conformance.bench import memory, work
from glm5_hal.conformance.bench.cases import OpCase
from glm5_hal.conformance.bench.peaks import measured
from glm5_hal.conformance.bench.peer import Transformers
from glm5_hal.conformance.bench.plain_torch import EXPRESSIONS, plain_runtime
from glm5_hal.conformance.bench.timing import measure, resolution
from glm5_hal.conformance.call import Loaded
from glm5_hal.conformance.subjects import DTYPES
from glm5_hal.model.generate import generate
from glm5_hal.model.load import load_model

COLD_BYTES = 1 << 28
"""Inputs are copied until they are larger than any cache, and the copies take turns."""
MOST_COPIES = 16
WARM_TOKENS, WARM_STEPS = 64, 2
"""Of a model: prompt of the run before the timed one; decode steps before the timed ones."""
STEPS = 8
"""Decode steps that are timed."""
NEW_TOKENS = 1 + WARM_STEPS + STEPS
"""The first one ends the prefill."""

Job = dict[str, Any]
Answer = dict[str, Any]


class Contender(Protocol):
    """A model of either side."""

    def tokens(self, ids: Sequence[int], number: int) -> Iterator[int]:
        """Greedy tokens after a prompt, each as soon as it is known on the host."""


class Ours:
    """Our model on a runtime.

    Args:
        directory: of the checkpoint.
        runtime: its backend computes.
        dtype: of activations.
        positions: longest sequence.
    """

    def __init__(
        self, directory: Path, runtime: Runtime, dtype: torch.dtype, positions: int
    ) -> None:
        self._model = load_model(directory, runtime, dtype=dtype, positions=positions, mtp=False)

    def tokens(self, ids: Sequence[int], number: int) -> Iterator[int]:
        """As `Contender.tokens`."""
        for emitted in generate(self._model, [ids], max_new_tokens=number, stop=()):
            yield from emitted.tokens


# --- jobs ---


def describe(job: Job) -> Answer:
    """What runs: the plan, the device, and what memory is free there."""
    runtime = _runtime(job, "ours")
    device = runtime.backend.device
    name = getattr(torch.get_device_module(device), "get_device_name", None)
    return {
        "plan": {**runtime.plan.to_dict(), "hash": runtime.plan.hash},
        "device": str(device),
        "device_name": str(name(device)) if name and device.type != "cpu" else device.type,
        "threads": torch.get_num_threads(),
        "clock_resolution": resolution(),
        "free_bytes": memory.free(device),
    }


def peaks(job: Job) -> Answer:
    """The machine's peaks, where our backend computes."""
    runtime = plain_runtime(job["device"])
    backend = runtime.backend
    found = measured(
        DTYPES[job["dtype"]],
        backend.device,
        backend.synchronize,
        width=job["width"],
        budget=job["budget"],
    )
    return vars(found)


def op(job: Job) -> Answer:
    """Time one call of one side."""
    runtime = _runtime(job, job["side"])
    case = OpCase(job["op"], job["sizes"], job["expression"])
    call = case.call(job["dtype"])
    done = work.of(call)
    loaded = Loaded.on(runtime, call)
    size = _nbytes(loaded.arguments)
    copies = min(MOST_COPIES, -(-COLD_BYTES // max(1, size)))
    inputs = [loaded.arguments, *(Loaded.on(runtime, call).arguments for _ in range(copies - 1))]
    del call, loaded
    run = _function(job, case, runtime)
    turn = iter(range(sys.maxsize))
    device = runtime.backend.device
    before, device_before = memory.held(), memory.device_held(device)
    memory.reset_peak(device)
    with torch.inference_mode(), runtime:
        timing = measure(
            lambda: run(**inputs[next(turn) % copies]),
            runtime.backend.synchronize,
            budget=job["budget"],
        )
    most, device_most = memory.peak(), memory.device_peak(device)
    return {
        **vars(timing),
        "copies": copies,
        "host_bytes": _above(most, before),
        "device_bytes": _above(device_most, device_before),
        "work": vars(done),
    }


def _function(job: Job, case: OpCase, runtime: Runtime) -> Callable[..., object]:
    """Ours goes through the door, as the model does; plain torch is called as it is."""
    if job["side"] == "ours":
        return case.spec
    if case.expression:
        return EXPRESSIONS[case.expression]
    method: Callable[..., object] = getattr(runtime.backend, case.op)
    return method


def _above(most: int | None, before: int | None) -> int | None:
    return None if most is None or before is None else max(0, most - before)


def _nbytes(arguments: dict[str, Any]) -> int:
    sizes = (getattr(value, "shape", ()) for value in arguments.values())
    return sum(2 * torch.Size(shape).numel() for shape in sizes)


def model(job: Job) -> Answer:
    """Time one prefill and the decode steps behind it, in a process that has run nothing else."""
    device = torch.device(job["device"])
    runtime = None if job["side"] == "transformers" else _runtime(job, job["side"])
    before = memory.held()
    dtype, context = DTYPES[job["dtype"]], job["context"]
    directory = Path(job["directory"])
    contender: Contender
    if runtime is None:
        contender = Transformers(directory, dtype, job["device"])
    else:
        contender = Ours(directory, runtime, dtype, context + NEW_TOKENS)
    loaded = memory.held()
    ids = prompt(context, job["vocab"])
    for _ in contender.tokens(ids[:WARM_TOKENS], WARM_STEPS + 1):
        pass
    whole = memory.reset_peak(device)
    seconds, tokens = _followed(contender.tokens(ids, NEW_TOKENS))
    taken = memory.Taken(before, loaded, memory.peak(), whole, memory.device_peak(device))
    return {
        "prefill": seconds[0],
        "warm_steps": seconds[1 : 1 + WARM_STEPS],
        "decode": seconds[1 + WARM_STEPS :],
        "memory": vars(taken),
        "tokens": tokens,
    }


def prompt(length: int, vocabulary: int) -> list[int]:
    """Random ids, the same for every side."""
    drawn = philox.uniform24(0, philox.stream_of("prompts of the benchmark"), 0, length)
    return [int(value) % vocabulary for value in drawn]


def _followed(tokens: Iterator[int]) -> tuple[list[float], list[int]]:
    """Seconds until each token since the one before it, and the tokens."""
    seconds, found = [], []
    last = time.perf_counter()
    for token in tokens:
        now = time.perf_counter()
        seconds.append(now - last)
        found.append(token)
        last = now
    return seconds, found


def _runtime(job: Job, side: str) -> Runtime:
    if side == "ours":
        return open_runtime(job["backend"], job["numerics"])
    return plain_runtime(job["device"])


JOBS: dict[str, Callable[[Job], Answer]] = {
    "describe": describe,
    "peaks": peaks,
    "op": op,
    "model": model,
}


# --- the process ---


def answer(job: Job) -> Answer:
    """Do a job; an error becomes an answer."""
    try:
        return {"answer": JOBS[job["job"]](job)}
    except Unsupported as error:
        return {"unsupported": str(error)}
    except (MemoryError, RuntimeError) as error:
        if _wants_memory(error):
            return {"memory": str(error).partition("\n")[0]}
        return {"failed": traceback.format_exc()}
    except Exception:
        return {"failed": traceback.format_exc()}


def _wants_memory(error: Exception) -> bool:
    known = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return known or "allocate memory" in str(error)  # torch's allocator of the host


def main() -> None:
    """Serve until stdin ends."""
    answers = _answers()
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    for line in sys.stdin:
        answers.write(json.dumps(answer(json.loads(line))) + "\n")
        answers.flush()


def _answers() -> IO[str]:
    """A private copy of stdout; the number 1 goes to stderr from now on."""
    private = os.dup(1)
    os.dup2(2, 1)
    return os.fdopen(private, "w")


if __name__ == "__main__":
    main()
