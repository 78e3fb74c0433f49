"""What the tests of benchmarks share by name."""

from collections.abc import Callable, Mapping
from typing import Any

from typer.testing import Result

from glm5_hal.conformance.bench import floor
from glm5_hal.conformance.bench.cases import OpCase
from glm5_hal.conformance.bench.peaks import Peaks
from glm5_hal.conformance.bench.results import ModelResult, OpResult, Report, Where
from glm5_hal.conformance.machine import Machine
from glm5_hal.model.config import ModelConfig

Call = Callable[..., Result]
"""`glm5-hal` with some arguments."""

SWIGLU = OpCase("swiglu", {"T": 4, "I": 8})
TOPK = OpCase("topk", {"T": 2, "S": 50, "k": 7}, "torch.sort")
MID = ModelConfig.load("mid")
SETTINGS = {"backend": None, "numerics": None, "dtype": "bf16", "threads": 2, "repeats": 2}
PLAN = {"backend": "cpu", "index": 0, "numerics": "fast", "mode": "", "hash": "0123abcd"}


def sample(*seconds: float, taken: int | None = 1 << 20) -> dict[str, Any]:
    """What a process answers to a job of an op."""
    work = {"flop": 100, "bytes": 1000}
    return {"seconds": seconds, "host_bytes": taken, "device_bytes": None, "work": work}


def op_result(case: OpCase, ours: float, torch: float) -> OpResult:
    """Two rounds, the second one slower on both sides."""
    samples = {
        "ours": [sample(ours), sample(1.5 * ours)],
        "torch": [sample(torch), sample(1.5 * torch)],
    }
    return OpResult(case, "torch", samples)


def run(prefill: float, decode: float, peak: int) -> dict[str, Any]:
    """What a process answers to a job of a model."""
    memory = {"before": 100 << 20, "loaded": 200 << 20, "peak": peak, "whole": True, "device": None}
    return {"prefill": prefill, "decode": [decode] * 3, "memory": memory}


def context(length: int, ours: float, peer: float | None) -> ModelResult:
    """Two rounds of a prefill and decode steps; without a peer's time it was not run."""
    floors = {"prefill": floor.prefill(MID, length, 2), "decode": floor.decode(MID, length, 2)}
    found = ModelResult(length, "transformers", floors)
    found.runs["ours"] = [run(s, s / 100, 300 << 20) for s in (ours, 2 * ours)]
    if peer is None:
        found.not_run["transformers"] = "needs about 69 GiB, 20 GiB are free"
    else:
        found.runs["transformers"] = [run(s, s / 50, 1100 << 20) for s in (peer, 2 * peer)]
    return found


def made_report(
    ratios: Mapping[OpCase, float] | None = None, contexts: bool = True, load: float = 0.1
) -> Report:
    """A report that nobody had to measure."""
    machine = Machine(
        os="Linux",
        cpu="A processor <of> ours & theirs",
        cores=2,
        device="cpu",
        device_name="A processor <of> ours & theirs",
        compilers={},
        torch_build="",
        packages={"torch": "2.13"},
    )
    where = Where(machine, ("avx2",), 2, PLAN, 1e-7, load, Peaks(1e12, 1e11))
    ops = [op_result(case, ratio, 1.0) for case, ratio in (ratios or {SWIGLU: 0.5}).items()]
    found = [context(1024, 1.0, 8.0), context(4096, 4.0, 64.0), context(16384, 20.0, None)]
    model, peer = ("mid", "transformers 5.23") if contexts else ("", "")
    return Report(
        "2026-01-02T03:04:05+00:00", SETTINGS, where, ops, model, peer, found if contexts else []
    )
