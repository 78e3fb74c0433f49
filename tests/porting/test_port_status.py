"""`glm5-hal port status`: what is left, in which order, and how far the model runs."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from generated import LINEAR_NARROW, TOPK, TOPK_LATE_TIES, Make, Package, hal
from typer.testing import CliRunner

from glm5_hal import BackendUnavailable, UnknownBackend
from glm5_hal.cli import app, port_watch
from glm5_hal.conformance.case import Result, Status
from glm5_hal.conformance.catalogue import catalogue
from glm5_hal.conformance.porting import status as porting
from glm5_hal.conformance.porting.served import Calls, recorded
from glm5_hal.conformance.porting.status import OpStatus, Port, State
from glm5_hal.contract import OPS, Kind
from glm5_hal.plan import resolve
from glm5_hal.requirements import op_of

PRIMITIVES = {name for name, op in OPS.items() if op.kind is Kind.PRIMITIVE}


@pytest.fixture(scope="module")
def calls() -> Calls:
    return recorded()


def call(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def test_the_model_s_calls_are_counted_as_primitives(calls: Calls) -> None:
    assert set(calls.step) <= PRIMITIVES
    # training alone, and the reuse of a prefix, need the others
    assert PRIMITIVES - set(calls.step) == {"muon_orthogonalize", "cache_read"}
    assert calls.step["embedding"] == calls.step["sample"] == 1
    # tiny has 4 layers, 3 of them with experts: two grouped products, one routing each
    assert calls.step["latent_attention"] == 4
    assert calls.step["moe_route"] == 3
    assert calls.step["grouped_linear"] == 6
    assert calls.layer["latent_attention"] == calls.layer["moe_route"] == calls.layer["topk"] == 1
    assert "embedding" not in calls.layer
    assert sum(map(calls.share, OPS)) == pytest.approx(1)


def result(requirement: str, status: Status, op: str = "topk", aspect: str = "function") -> Result:
    return Result(f"{requirement}/r/{aspect}", requirement, op, aspect, "parity", status, 0.1)


def test_the_requirement_to_mend_is_the_op_s_first() -> None:
    cls = resolve("cpu", "fast", {})[1]
    results = [
        result("RUN-1", Status.FAIL, aspect="run-to-run"),
        result("TOPK-3", Status.FAIL),
        result("TOPK-1", Status.PASS),
        result("TOPK-2", Status.CRASH, aspect="guard"),
        result("TOPK-2", Status.FAIL),
        result("TOPK-4", Status.EXPECTED_FAIL),
        result("TOPK-5", Status.NOT_RUN),
        result("LINEAR-1", Status.FAIL, op="linear"),
    ]
    found = porting._status_of("topk", cls, True, results)
    assert (found.state, found.passed, found.judged) == (State.FAILING, 1, 6)
    assert found.first == results[4]
    good = [entry for entry in results if entry.status not in (Status.FAIL, Status.CRASH)]
    assert porting._status_of("topk", cls, True, good).state is State.PASSES
    assert porting._status_of("topk", cls, False, []).state is State.MISSING


def test_no_op_passes_for_want_of_cases(calls: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ops of several ranks have cases of their own for levels that a backend may not claim."""
    cls = resolve("cpu", "exact", {})[1]
    guard = replace(result("GUARD-1", Status.PASS, "row_exponents"), aspect="guard")
    cases = [case for case in catalogue().values() if case.op == "row_exponents" and case.quick]
    own = [case for case in cases if op_of(case.requirement) == case.op]
    assert {case.aspect for case in own} == {"cross-backend", "rank-invariant"}
    waiting = [
        replace(result(case.requirement, Status.NOT_RUN, case.op), aspect=case.aspect)
        for case in own
    ]
    found = porting._status_of("row_exponents", cls, True, [guard, *waiting])
    assert found.state is State.UNJUDGED
    port = Port(resolve("cpu", "exact", {})[0], calls, (found,))
    code, text = shown(port, monkeypatch)
    assert code == 1
    level = found.first.aspect if found.first else ""
    assert f"needs the claim {level}" in text
    assert f"next: claim {level} in the capabilities" in text
    judged = replace(waiting[0], status=Status.PASS)
    assert porting._status_of("row_exponents", cls, True, [judged]).state is State.PASSES


def port_of(calls: Calls, **states: State) -> Port:
    """A port in which some ops stand so, and no other op is wanted."""
    plan = resolve("cpu", "fast", {})[0]
    broken = replace(result("TOPK-1", Status.FAIL), message="ties go wrong")
    ops = [
        OpStatus(name, state, 3, 4, broken if state is State.FAILING else None, "backend.py:7")
        for name, state in states.items()
    ]
    return Port(plan, calls, tuple(ops))


def shown(port: Port, monkeypatch: pytest.MonkeyPatch, *options: str) -> tuple[int, str]:
    monkeypatch.setattr(porting, "status", lambda *_: port)
    return call("port", "status", "--backend", "cpu", *options)


def test_exit_codes_and_what_is_next(calls: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    code, text = shown(port_of(calls, topk=State.PASSES, linear=State.PASSES), monkeypatch)
    assert code == 0
    assert "next: glm5-hal conformance run --backend cpu --out result" in text
    here = calls.step["topk"] + calls.step["linear"]
    assert f"a step: {here} of {sum(calls.step.values())} op calls run on cpu and pass" in text

    code, text = shown(port_of(calls, linear=State.MISSING, topk=State.FAILING), monkeypatch)
    assert code == 1
    assert "next: write linear in backend.py:7\nspec: docs/spec/linear.md" in text
    assert f"a layer: 0 of {sum(calls.layer.values())}" in text

    code, text = shown(port_of(calls, topk=State.FAILING, linear=State.PASSES), monkeypatch)
    assert code == 1
    assert "failing at TOPK-1" in text
    assert "ties go wrong" in text
    assert "next: mend topk in backend.py:7" in text


def test_a_backend_that_is_unknown_or_absent() -> None:
    assert call("port", "status", "--backend", "nothing")[0] == 2
    code, text = call("port", "status", "--backend", "cambricon")
    assert code == 3
    assert "torch_mlu is not installed" in text
    code, text = call("port", "status", "--watch", "--json", "--backend", "cpu")
    assert code == 2
    assert "--watch shows tables" in text


def test_json_is_everything(calls: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    port = port_of(calls, linear=State.MISSING, topk=State.FAILING, swiglu=State.PASSES)
    code, text = shown(port, monkeypatch, "--json")
    assert code == 1
    document = json.loads(text)
    assert document["left"] == 2
    assert document["served"]["step"] == {
        "native": calls.step["swiglu"],
        "calls": sum(calls.step.values()),
    }
    assert [op["state"] for op in document["ops"]] == ["missing", "failing", "passes"]
    assert document["ops"][1]["first"]["requirement"] == "TOPK-1"
    assert document["ops"][0]["calls"]["layer"] == calls.layer["linear"]


# --- watching ---


def test_the_sources_are_found_without_running_them(make: Make) -> None:
    package = make()
    (package.source / "backend.py").write_text("def broken(:\n")
    assert port_watch.folder_of(package.name) == package.source
    assert port_watch.folder_of("cpu").name == "cpu"
    assert port_watch.folder_of("npu:1").name == "ascend"
    with pytest.raises(UnknownBackend):
        port_watch.folder_of("nothing")
    shutil.rmtree(package.source)
    with pytest.raises(BackendUnavailable, match="is not there"):
        port_watch.folder_of(package.name)


def test_a_snapshot_sees_sources_alone(make: Make) -> None:
    source = make().source
    (source / "native").mkdir()
    (source / "native" / "ops.c").write_text("int x;\n")
    (source / "__pycache__").mkdir(exist_ok=True)
    (source / "__pycache__" / "backend.py").write_text("")
    (source / "notes.txt").write_text("")
    names = {path.name for path in port_watch.snapshot(source)}
    assert names == {"__init__.py", "backend.py", "backend.yaml", "waivers.yaml", "ops.c"}


def test_a_change_counts_when_it_is_over() -> None:
    old, one, two = ({Path("a.py"): (size, size)} for size in (1, 2, 3))
    new = {**two, Path("b.py"): (1, 1)}
    looks: Iterator[dict[Path, Any]] = iter([old, old, one, two, new, new])
    assert port_watch.settled(lambda: next(looks), old, pause=0) == ["a.py", "b.py"]
    assert next(looks, None) is None
    looks = iter([one, old, old, two, two])  # undone before it had settled
    assert port_watch.settled(lambda: next(looks), old, pause=0) == ["a.py"]


# --- the whole command ---


def states(package: Package) -> tuple[int, dict[str, dict[str, Any]]]:
    done = hal("port", "status", "--backend", package.name, "--json", path=package.root / "src")
    assert done.stdout, done.stderr
    return done.returncode, {op["op"]: op for op in json.loads(done.stdout)["ops"]}


@pytest.mark.slow
def test_from_missing_over_failing_to_passing(make: Make) -> None:
    package = make()
    code, found = states(package)
    assert code == 1
    assert {op["state"] for op in found.values()} == {"missing"}
    assert next(iter(found)) == "linear"
    assert set(found) == PRIMITIVES

    package.write("topk", TOPK_LATE_TIES)
    package.write("linear", LINEAR_NARROW)
    _, found = states(package)
    assert found["topk"]["state"] == found["linear"]["state"] == "failing"
    assert found["topk"]["first"]["requirement"] == "TOPK-1"
    assert found["topk"]["first"]["difference"]["index"]
    assert found["linear"]["first"]["requirement"] == "LINEAR-5"
    assert found["swiglu"]["state"] == "missing"

    package.rewrite("topk", TOPK_LATE_TIES, TOPK)
    _, found = states(package)
    assert found["topk"]["state"] == "passes"
    assert found["topk"]["passed"] == found["topk"]["judged"] > 0
    assert list(found)[-1] == "topk"


@pytest.mark.slow
def test_watching_starts_anew_after_a_change_and_ends_cleanly(make: Make, tmp_path: Path) -> None:
    package = make()
    log = tmp_path / "log"
    environment = {**os.environ, "PYTHONPATH": str(package.root / "src"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "glm5_hal", "port", "status", "--watch"]
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*command, "--backend", package.name], env=environment, stdout=out, stderr=out
        )

    def wait_for(text: str, times: int = 1) -> str:
        until = time.monotonic() + 180
        while log.read_text().count(text) < times:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.2)
        return log.read_text()

    try:
        wait_for("Ctrl-C ends")
        package.write("swiglu", "        return gate_up[:, 1::2]\n")
        said = wait_for("Ctrl-C ends", times=2)
        assert "changed: backend.py" in said
        assert "failing at SWIGLU-1" in said
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        assert log.read_text().rstrip().endswith("stopped")
        assert "Traceback" not in log.read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
