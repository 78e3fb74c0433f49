"""Run to run: again, in a fresh process, in dirty memory, elsewhere in memory, under load."""

import functools
import importlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from glm5_hal import Backend, HalError, Runtime, Unsupported, WeightRole
from glm5_hal.conformance.call import Call, Loaded, WeightValue, answer
from glm5_hal.conformance.case import Case, Check, Evidence, Failure
from glm5_hal.conformance.families.intercept import Prefill
from glm5_hal.conformance.families.judging import case, digests, same_bytes
from glm5_hal.conformance.subjects import BUILDERS, Variant, variants
from glm5_hal.contract import OPS
from glm5_hal.levels import Level, Numerics
from glm5_hal.plan import make_plan
from glm5_hal.registry import simulate

_RUN = Level.RUN_TO_RUN.value


def subjects() -> list[Variant]:
    """One or two variants of every op, in every activation dtype."""
    return [v for op in OPS for v in variants(op, quick_only=True) if op in BUILDERS]


def cases() -> Iterator[Case]:
    """Every way of running again, for every op."""
    for v in subjects():
        yield case("RUN-1", "repeat", v, _again(v), aspect=_RUN, tag=v.op)
        fresh = _fresh_process(v)
        yield case("RUN-2", "repeat", v, fresh, aspect=_RUN, tag=v.op, shares="fresh process")
        yield case("RUN-3", "repeat", v, _dirty_memory(v), aspect=_RUN, tag=v.op)
        yield case("RUN-4", "repeat", v, _elsewhere(v), aspect=_RUN, tag=v.op)
        yield case("RUN-5", "repeat", v, _under_load(v), aspect=_RUN, tag=v.op)
        yield case("RUN-6", "repeat", v, _threads(v), aspect=Level.THREAD_INVARIANT.value, tag=v.op)
    for v in variants("linear", dtypes=("fp32", "bf16")):
        if v.shape.real:
            yield case("RUN-1", "repeat", v, _again(v), aspect=_RUN, tag=v.op)


def _again(v: Variant) -> Check:
    def check(runtime: Runtime) -> Evidence:
        loaded = Loaded.on(runtime, v.call())
        found = loaded.answer()
        for number in range(2, 6):
            same_bytes(
                found,
                loaded.answer(),
                message="the same call gives other bytes",
                change=f"run {number} of 5",
                hint="atomics, a race, autotuning between runs, or state kept from the last call",
            )
        return Evidence(digests(found))

    return check


def _fresh_process(v: Variant) -> Check:
    def check(runtime: Runtime) -> Evidence:
        elsewhere = _digests_of_a_fresh_process(_Recipe.of(runtime), torch.get_num_threads())
        here = digests(answer(runtime, v.call()))
        there = elsewhere.found.get(v.name(""))
        if there is None:
            raise Failure(
                f"a fresh process died at this op or before it: {elsewhere.said}",
                change="fresh process",
            )
        if here != there:
            raise Failure(
                "a fresh process gives other bytes",
                change="fresh process",
                hint="hash seeds, addresses, warm caches or autotuning decide",
            )
        return Evidence(here)

    return check


@dataclass(frozen=True)
class _Recipe:
    """What a fresh process needs to open the same runtime, whether the backend is registered.

    Attributes:
        module, name: of the backend's class, or of the one that its class was made from.
        index: of the device.
        numerics: numeric profile.
        substitute: whether ops that the backend lacks run on the CPU.
        simulated: whether the device is.
    """

    module: str
    name: str
    index: int
    numerics: str
    substitute: bool
    simulated: bool

    @classmethod
    def of(cls, runtime: Runtime) -> "_Recipe":
        backend, plan = type(runtime.backend), runtime.plan
        written = next(
            one
            for one in backend.__mro__
            if getattr(one, "name", None) == backend.name
            and getattr(sys.modules[one.__module__], one.__qualname__, None) is one
        )
        return cls(
            written.__module__,
            written.__qualname__,
            plan.index,
            plan.numerics.value,
            bool(plan.substituted),
            plan.simulated,
        )

    def open(self) -> Runtime:
        """Open the runtime."""
        backend: type[Backend] = getattr(importlib.import_module(self.module), self.name)
        if self.simulated:
            simulate(backend)
        numerics = Numerics(self.numerics)
        backend = backend.in_profile(numerics)
        plan = make_plan(backend, self.index, numerics, substitute=self.substitute)
        return Runtime(plan, backend(self.index))


@dataclass(frozen=True)
class _Elsewhere:
    """What a fresh process left.

    Attributes:
        found: digests by subject, as far as it came.
        said: the end of what it wrote to stderr.
    """

    found: dict[str, dict[str, str]]
    said: str


@functools.cache
def _digests_of_a_fresh_process(recipe: _Recipe, threads: int) -> _Elsewhere:
    """Digests of all subjects, computed by a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONHASHSEED": "1"}
    done = subprocess.run(
        [sys.executable, "-m", __spec__.name, json.dumps(asdict(recipe))],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [line for line in done.stdout.splitlines() if line.endswith("}")]
    found = {name: its for line in lines for name, its in json.loads(line).items()}
    return _Elsewhere(found, done.stderr.strip()[-500:])


def _print_digests() -> None:
    """What the fresh process does: a line for every subject that the backend answers."""
    runtime = _Recipe(**json.loads(sys.argv[1])).open()
    for v in subjects():
        try:
            found = digests(answer(runtime, v.call()))
        except Unsupported:
            continue
        except (HalError, RuntimeError, ValueError, TypeError) as error:
            found = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps({v.name(""): found}), flush=True)


def _dirty_memory(v: Variant) -> Check:
    def check(runtime: Runtime) -> Evidence:
        loaded = Loaded.on(runtime, v.call())
        found = loaded.answer()
        for filler in (torch.nan, 3.0e38):
            _dirty(runtime, filler)
            same_bytes(
                found,
                loaded.answer(),
                message="freed memory reaches the result",
                change=f"freed blocks held {filler}",
                hint="a buffer is read before it is written",
            )
            with Prefill(filler):
                dirty = loaded.answer()
            same_bytes(
                found,
                dirty,
                message="uninitialised memory reaches the result",
                change=f"new buffers held {filler}",
                hint="a buffer is read before it is written, or not written to its end",
            )
        return Evidence(digests(found))

    return check


def _dirty(runtime: Runtime, value: float) -> None:
    """Fill and free blocks of many sizes, so that the allocator hands them out again."""
    device = runtime.backend.device
    blocks = [torch.full((1 << power,), value, device=device) for power in range(4, 21)] * 2
    del blocks


def _elsewhere(v: Variant) -> Check:
    """Inputs at odd addresses, and with gaps between rows."""

    def check(runtime: Runtime) -> Evidence:
        call = v.call()
        found = answer(runtime, call)
        for offset in (1, 3):
            same_bytes(
                found,
                _answer_moved(runtime, call, offset, gap=0),
                message="the address of the inputs reaches the result",
                change=f"inputs {offset} elements off alignment",
                hint="a vector path chosen by alignment sums in another order",
            )
        same_bytes(
            found,
            _answer_moved(runtime, call, 0, gap=5),
            message="strides reach the result",
            change="rows 5 elements apart",
            hint="a path for contiguous inputs sums in another order, or strides are ignored",
        )
        return Evidence(digests(found))

    return check


def _answer_moved(runtime: Runtime, call: Call, offset: int, gap: int) -> tuple[Tensor, ...]:
    loaded = Loaded.on(runtime, call)
    for name in call.arguments:
        value = loaded.arguments[name]
        if isinstance(value, Tensor) and value.is_floating_point() and value.dim() >= 2:
            loaded.arguments[name] = _moved(value, offset, gap)
    weights = {n: w for n, w in call.arguments.items() if isinstance(w, WeightValue)}
    for name, weight in weights.items():
        if weight.role is not WeightRole.ROPE_TABLE and not gap:
            moved = _moved(weight.tensor, offset, 0)
            loaded.arguments[name] = runtime.prepare_weight(weight.role, moved)
    return loaded.answer()


def _moved(value: Tensor, offset: int, gap: int) -> Tensor:
    """The same values in a larger buffer, `offset` elements in, rows `gap` elements apart."""
    width = value.shape[-1] if value.dim() else 1
    rows = value.numel() // max(width, 1)
    buffer = torch.full(
        (offset + rows * (width + gap),), torch.nan, dtype=value.dtype, device=value.device
    )
    view = buffer[offset:].unflatten(0, (rows, width + gap))[:, :width] if rows else value
    view.copy_(value.reshape(rows, width)) if rows else None
    return view.unflatten(0, value.shape[:-1]) if value.dim() > 2 else view.reshape(value.shape)


def _under_load(v: Variant) -> Check:
    """Other threads run the same op on other data meanwhile."""

    def check(runtime: Runtime) -> Evidence:
        call = v.call()
        loaded = Loaded.on(runtime, call)
        found = loaded.answer()
        other = Loaded.on(runtime, _other_data(call))
        stop = threading.Event()
        errors: list[BaseException] = []

        def work() -> None:
            try:
                while not stop.is_set():
                    other.run()
            except Exception as error:  # reported below, in the thread that judges
                errors.append(error)

        threads = [threading.Thread(target=work, daemon=True) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            for number in range(8):
                same_bytes(
                    found,
                    loaded.answer(),
                    message="other work on the device reaches the result",
                    change=f"run {number + 1} of 8 under load",
                    hint="a workspace or result buffer shared between calls, or no synchronisation",
                )
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        if errors:
            raise Failure(f"a concurrent call failed: {errors[0]}", change="under load")
        return Evidence(digests(found))

    return check


def _other_data(call: Call) -> Call:
    """The same shapes, other activations."""
    changed = {
        name: call.arguments[name] * 0.5
        for name, value in call.arguments.items()
        if isinstance(value, Tensor) and value.is_floating_point()
    }
    return call.with_arguments(**changed)


def _threads(v: Variant) -> Check:
    def check(runtime: Runtime) -> Evidence:
        loaded = Loaded.on(runtime, v.call())
        usual = torch.get_num_threads()
        found = loaded.answer()
        try:
            for count in (1, 2, 3, 4):
                torch.set_num_threads(count)
                same_bytes(
                    found,
                    loaded.answer(),
                    message="the number of threads reaches the result",
                    change=f"{count} threads instead of {usual}",
                    hint="sums are split by the number of threads",
                )
        finally:
            torch.set_num_threads(usual)
        return Evidence(digests(found))

    return check


if __name__ == "__main__":
    _print_digests()
