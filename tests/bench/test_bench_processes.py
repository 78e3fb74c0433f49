"""Who runs when, in which process, and what becomes of one that fails."""

import json
import sys
from pathlib import Path
from typing import Any, ClassVar, Self

import pytest
import torch
from bench_names import MID, PLAN, SWIGLU, TOPK, run, sample

from glm5_hal.conformance.bench import child, children, instructions, running
from glm5_hal.conformance.bench.cases import OpCase
from glm5_hal.conformance.bench.children import BenchError, Child, Children, NotRunError
from glm5_hal.conformance.bench.running import Bench, Model, Settings, turns
from glm5_hal.conformance.errors import UnusableError

SETTINGS = Settings("cpu", "fast", "bf16", threads=1, repeats=3, budget=0.0, width=32)
COMMON = {"backend": "cpu", "numerics": "fast", "dtype": "bf16", "budget": 0.0, "device": "cpu"}
LIMBS = OpCase("linear_limbs", {"T": 2, "K": 4, "N": 3})


def test_sides_take_turns() -> None:
    assert [side for _, side in turns(("ours", "peer"), 3)] == ["ours", "peer"] * 3
    assert [number for number, _ in turns(("ours", "peer"), 2)] == [0, 0, 1, 1]


class Fake:
    """Stands for a process: keeps what it is asked, and answers by a script."""

    born: ClassVar[list["Fake"]] = []
    fails: ClassVar[dict[tuple[str, str], Exception]] = {}
    free = 20 << 30

    def __init__(self, threads: int) -> None:
        self.asked: list[tuple[str, str]] = []
        Fake.born.append(self)

    alive = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.alive = False

    def ask(self, job: str, **parts: Any) -> dict[str, Any]:
        assert self.alive
        what = parts.get("op", str(parts.get("context", "")))
        self.asked.append((f"{job} {what}".strip(), parts.get("side", "")))
        if error := Fake.fails.get((what, parts.get("side", ""))):
            raise error
        if job == "describe":
            ops = {op: {"source": "native", "where": "here"} for op in ("swiglu", "topk")}
            ops["linear_limbs"] = {"source": "unsupported", "where": "not part of the profile"}
            return {
                **{"device": "cpu", "device_name": "cpu", "threads": 1, "clock_resolution": 1e-7},
                "plan": {**PLAN, "ops": ops},
                "free_bytes": Fake.free,
            }
        if job == "peaks":
            return {"flops": 1e12, "bandwidth": 1e11}
        return sample(1.0) if job == "op" else run(1.0, 0.01, 1 << 30)


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> list[Fake]:
    """Every process that a benchmark would have begun."""
    born: list[Fake] = []
    monkeypatch.setattr(Fake, "born", born)
    monkeypatch.setattr(Fake, "fails", {})
    monkeypatch.setattr(Fake, "free", 20 << 30)
    monkeypatch.setattr(running, "Child", Fake)
    monkeypatch.setattr(children, "Child", Fake)
    return born


def seen(what: list[str]) -> Any:
    return lambda done, total, now: what.append(f"{done}/{total} {now}")


def test_ops_are_timed_side_by_side_in_a_pair_of_processes_a_round(fakes: list[Fake]) -> None:
    told: list[str] = []
    report = Bench(SETTINGS, seen(told)).run([SWIGLU, TOPK, LIMBS], None)
    observer, *pairs = fakes
    assert [fake.asked for fake in pairs] == [
        [("op swiglu", side), ("op topk", side)] for side in ("ours", "torch")
    ] * 3
    assert not any(fake.alive for fake in fakes)
    assert told[1:5] == [
        "0/18 swiglu/T4-I8: ours",
        "1/18 swiglu/T4-I8: torch",
        "2/18 topk/T2-S50-k7/torch.sort: ours",
        "3/18 topk/T2-S50-k7/torch.sort: torch",
    ]
    assert told[-1] == "18/18 looking at the machine again"
    assert [len(result.seconds("torch")) for result in report.ops] == [3, 3, 0]
    assert report.ops[2].not_run == {"ours": "not part of the profile"}
    assert observer.asked == [("describe", ""), ("peaks", ""), ("peaks", "")]


def model(*contexts: int, peer: str = "transformers") -> Model:
    return Model("mid", Path("here"), MID, contexts, peer)


def test_every_run_of_a_model_has_a_process_of_its_own(fakes: list[Fake]) -> None:
    report = Bench(SETTINGS, seen([])).run([], model(64, 128))
    assert [fake.asked for fake in fakes[1:]] == [
        [(f"model {context}", side)]
        for context in (64, 128)
        for _ in range(3)
        for side in ("ours", "transformers")
    ]
    assert [len(found.runs["transformers"]) for found in report.contexts] == [3, 3]


def test_a_peer_that_would_not_fit_is_not_begun(fakes: list[Fake]) -> None:
    report = Bench(SETTINGS, seen([])).run([], model(1024, 16384))
    sides = [side for fake in fakes[1:] for _, side in fake.asked]
    assert sides == ["ours", "transformers"] * 3 + ["ours"] * 3
    # 16,384^2 pairs of 32 heads, twice 4 bytes and 8 more, and the weights
    assert report.contexts[1].not_run == {"transformers": "needs about 66 GiB, 20 GiB are free"}


def test_a_model_that_would_not_fit_is_refused(fakes: list[Fake]) -> None:
    Fake.free = 100 << 20
    with pytest.raises(UnusableError, match=r"mid needs about 0 GiB for its weights"):
        Bench(SETTINGS, seen([])).run([], model(1024))
    assert [fake.asked for fake in fakes] == [[("describe", "")]]


def test_a_side_that_cannot_run_leaves_the_other(fakes: list[Fake]) -> None:
    Fake.fails = {("swiglu", "torch"): NotRunError("killed"), ("64", "torch"): NotRunError("lost")}
    report = Bench(SETTINGS, seen([])).run([SWIGLU, TOPK], model(64, peer="torch"))
    broken, whole = report.ops
    assert (len(broken.samples["ours"]), broken.not_run) == (3, {"torch": "killed"})
    assert broken.ratio is None
    assert whole.ratio is not None
    assert report.contexts[0].not_run == {"torch": "lost"}
    assert "torch" not in report.contexts[0].runs


def test_an_error_of_a_process_ends_the_benchmark_and_every_process(fakes: list[Fake]) -> None:
    Fake.fails = {("topk", "torch"): BenchError("no")}
    with pytest.raises(BenchError, match="no"):
        Bench(SETTINGS, seen([])).run([SWIGLU, TOPK], None)
    assert not any(fake.alive for fake in fakes)


# --- real processes ---


def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    """Whatever Python is asked to run, this shell script runs."""
    path = tmp_path / "python"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(path))


@pytest.mark.parametrize(
    ("body", "error", "message"),
    [
        ("read l; echo oops >&2; exit 3", BenchError, r"with exit code 3; its last words:\noops"),
        ("read l; kill -9 $$", NotRunError, "killed .signal 9., most likely for want of memory"),
        ("read l; kill -11 $$", BenchError, "ended by signal 11"),
        ("exit 4", BenchError, "with exit code 4"),
        (
            'read l; echo \'{"failed": "Traceback"}\'; read l',
            BenchError,
            "job failed .*\nTraceback",
        ),
        ('read l; echo \'{"memory": "5 GB"}\'; read l', NotRunError, "out of memory: 5 GB"),
        ('read l; echo \'{"unsupported": "op x"}\'; read l', NotRunError, "op x"),
    ],
)
def test_how_a_process_ends(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    body: str,
    error: type[Exception],
    message: str,
) -> None:
    script(tmp_path, monkeypatch, body)
    with Child(1) as asked, pytest.raises(error, match=message):
        asked.ask("job")


def test_a_process_that_died_is_begun_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(tmp_path, monkeypatch, "read l; echo '{\"answer\": {\"threads\": '$OMP_NUM_THREADS'}}'")
    with Children(7) as group:
        first = group.of("ours")
        assert first.ask("job") == {"threads": 7}
        first._process.wait()
        assert group.of("ours") is not first
        assert group.of("ours").ask("job") == {"threads": 7}


# --- jobs, in this process ---


def done(job: str, **parts: Any) -> dict[str, Any]:
    reply: dict[str, Any] = json.loads(json.dumps(child.answer({"job": job, **COMMON, **parts})))
    assert "answer" in reply, reply
    answer: dict[str, Any] = reply["answer"]
    return answer


def test_what_runs_is_described() -> None:
    found = done("describe")
    assert found["plan"]["backend"] == "cpu"
    assert len(found["plan"]["hash"]) == 64
    assert (found["device"], found["device_name"]) == ("cpu", "cpu")


@pytest.mark.parametrize("case", [SWIGLU, TOPK], ids=lambda case: case.op)
@pytest.mark.parametrize("side", ["ours", "torch"])
def test_an_op_is_timed(case: OpCase, side: str) -> None:
    job = {"op": case.op, "sizes": dict(case.sizes), "expression": case.expression}
    found = done("op", side=side, **job)
    assert found["seconds"]
    assert all(second > 0 for second in found["seconds"])
    assert found["copies"] == child.MOST_COPIES
    assert found["work"]["bytes"] > 0


@pytest.mark.parametrize("side", ["ours", "torch"])
def test_a_model_is_timed(side: str, checkpoint: Path) -> None:
    found = done("model", side=side, directory=str(checkpoint), context=20, vocab=512)
    assert (len(found["warm_steps"]), len(found["decode"])) == (child.WARM_STEPS, child.STEPS)
    assert found["prefill"] > 0
    assert len(found["tokens"]) == child.NEW_TOKENS


def test_transformers_is_timed_on_the_same_checkpoint(checkpoint: Path) -> None:
    pytest.importorskip("transformers", minversion="5.23")
    sides = [
        done("model", side=side, directory=str(checkpoint), context=20, vocab=512, dtype="fp32")
        for side in ("ours", "transformers")
    ]
    ours, theirs = (side["tokens"] for side in sides)
    assert len(sides[1]["decode"]) == child.STEPS
    # the same weights and ids: float32 leaves little room for another first token
    assert ours[0] == theirs[0]


def test_prompts_are_the_same_for_every_side() -> None:
    assert child.prompt(5, 100) == child.prompt(9, 100)[:5]
    assert all(0 <= token < 7 for token in child.prompt(100, 7))


def test_errors_become_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(error: Exception) -> Any:
        def job(parts: Any) -> Any:
            raise error

        return job

    host = RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 5 bytes\nmore")
    for error, reply in (
        (MemoryError("much"), {"memory": "much"}),
        (torch.OutOfMemoryError("much"), {"memory": "much"}),
        (host, {"memory": "DefaultCPUAllocator: can't allocate memory: you tried 5 bytes"}),
    ):
        monkeypatch.setitem(child.JOBS, "describe", failing(error))
        assert child.answer({"job": "describe"}) == reply
    monkeypatch.setitem(child.JOBS, "describe", failing(RuntimeError("shapes differ")))
    assert "RuntimeError: shapes differ" in child.answer({"job": "describe"})["failed"]


def test_an_op_outside_the_profile_is_no_failure() -> None:
    job = {"job": "op", "side": "ours", "op": "row_exponents", "sizes": {"T": 2, "K": 4}}
    assert "row_exponents" in child.answer({**COMMON, **job, "expression": ""})["unsupported"]


def test_instruction_sets_are_read_from_the_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text("processor: 0\nflags\t\t: fpu avx2 amx_int8 avx512f sse\nflags: none\n")
    monkeypatch.setattr(instructions, "_INFO", info)
    assert instructions.sets() == ("avx2", "avx512f", "amx_int8")
    monkeypatch.setattr(instructions, "_INFO", tmp_path / "missing")
    assert instructions.sets() == (torch.backends.cpu.get_cpu_capability(),)
