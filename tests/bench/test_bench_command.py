"""`glm5-hal bench`: whole runs on a small model, and everything a user can get wrong."""

import importlib.util
import json
import re
from pathlib import Path
from typing import Any, Self

import pytest
from bench_names import SWIGLU, Call, made_report

from glm5_hal.cli import bench as command
from glm5_hal.cli import bench_check
from glm5_hal.conformance.bench import child, children, peaks, peer, running
from glm5_hal.conformance.bench.baseline import Baseline
from glm5_hal.conformance.bench.results import Report


@pytest.fixture
def small_peaks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A product that takes no seconds."""
    monkeypatch.setattr(running, "_WIDTHS", {True: 64, False: 64})


@pytest.mark.usefixtures("small_peaks")
def test_a_whole_run(call: Call, checkpoint: Path, tmp_path: Path) -> None:
    out, ratios = tmp_path / "result", tmp_path / "baseline.json"
    result = call(
        *("bench", "--ops", "swiglu,row_exponents", "--shapes", "tiny"),
        *("--model", checkpoint, "--contexts", "16", "--against", "torch"),
        *("--repeats", 1, "--threads", 1, "--out", out, "--baseline", ratios),
    )
    assert result.exit_code == 0, result.output
    names = {"bench.json", "result.md", "time.svg", "memory.svg"}
    assert {path.name for path in out.iterdir()} == names
    document = json.loads((out / "bench.json").read_text())
    assert document["settings"]["threads"] == document["machine"]["threads"] == 1
    assert {op["op"] for op in document["ops"]} == {"swiglu", "row_exponents"}
    [context] = document["contexts"]
    assert set(context["runs"]) == {"ours", "torch"}
    assert context["phases"]["prefill"]["floor"]["seconds"] > 0
    assert "prefill" in result.stdout
    assert "not run: row_exponents: not part of the fast profile" in result.stdout
    assert "ours / torch" in (out / "result.md").read_text()
    assert {case.op for case in Baseline.read(ratios).ratios} == {"swiglu"}
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


class InProcess:
    """Does in this process what a process of its own would do."""

    alive = True

    def __init__(self, threads: int) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.alive = False

    def ask(self, job: str, **parts: Any) -> dict[str, Any]:
        reply = child.answer(json.loads(json.dumps({"job": job, **parts, "budget": 0.0})))
        answer: dict[str, Any] = reply["answer"]
        return answer


@pytest.fixture
def in_process(small_peaks: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Quick: most of a process's time is its imports."""
    monkeypatch.setattr(peaks, "COPY_BYTES", 1 << 16)
    for module in (running, children):
        monkeypatch.setattr(module, "Child", InProcess)


@pytest.mark.usefixtures("in_process")
def test_a_configuration_is_measured_with_random_weights(call: Call) -> None:
    result = call(
        *("bench", "--model", "tiny", "--contexts", "8", "--against", "none"),
        *("--repeats", 1, "--threads", 1, "--json"),
    )
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert (document["model"], document["peer"], document["ops"]) == ("tiny", None, [])
    assert set(document["contexts"][0]["runs"]) == {"ours"}


def usage(call: Call, *args: object) -> str:
    result = call("bench", *args)
    assert (result.exit_code, result.stdout) == (2, "")
    return result.stderr


def test_what_is_asked_must_fit_together(call: Call, tmp_path: Path) -> None:
    assert "say what to measure: --ops, --model CONFIG_OR_DIR, or both" in usage(call)
    assert "'topk' names ops: say --ops topk" in usage(call, "topk")
    assert "--against is about --model" in usage(call, "--ops", "--against", "torch")
    assert "say --ops" in usage(call, "--model", "tiny", "--baseline", tmp_path / "b.json")
    assert "leave the others out" in usage(call, "--check", tmp_path / "b.json", "--ops")


def test_names_that_do_not_exist(call: Call, tmp_path: Path) -> None:
    assert "no op is called tpok" in usage(call, "--ops", "tpok")
    assert "huge" in usage(call, "--ops", "--shapes", "huge")
    assert "huge" in usage(call, "--model", "huge", "--against", "none")
    assert "nosuch" in usage(call, "--ops", "swiglu", "--backend", "nosuch")
    assert "cannot be read" in usage(call, "--check", tmp_path / "nothing.json")


@pytest.mark.parametrize(
    ("contexts", "message"),
    [
        ("16,60", "60 tokens are too long; .* is 64, and 11 are for .*: at most 53"),
        ("16,x", "expected lengths, such as 1024,4096"),
        ("0,16", "expected lengths from 1 to 53"),
        (",", "expected lengths from 1 to 53"),
    ],
)
def test_contexts(call: Call, checkpoint: Path, contexts: str, message: str) -> None:
    said = usage(call, "--model", checkpoint, "--against", "none", "--contexts", contexts)
    assert re.search(message, said), said


def test_the_default_contexts_of_a_short_model_must_be_given(call: Call, checkpoint: Path) -> None:
    assert "expected lengths" in usage(call, "--model", checkpoint, "--against", "none")


def test_a_directory_that_is_in_use(call: Call, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    said = usage(call, "--ops", "swiglu", "--shapes", "tiny", "--out", tmp_path)
    assert "is not empty; name a new or empty directory" in said
    assert (tmp_path / "file").read_text() == "mine"


def test_a_peer_that_is_not_installed(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    result = call("bench", "--model", "tiny")
    assert result.exit_code == 3
    assert "transformers is not installed: pip install 'transformers>=5.23'" in result.stderr


def test_a_peer_that_is_too_old(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(peer, "version", lambda name: "5.3.1")
    result = call("bench", "--model", "tiny")
    assert result.exit_code == 3
    assert "transformers 5.3.1 computes other index scores" in result.stderr


def test_an_interrupted_run_leaves_nothing(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: Any) -> Report:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "measured", interrupted)
    written = ("--out", tmp_path / "result", "--baseline", tmp_path / "baseline.json")
    result = call("bench", "--ops", "swiglu", "--shapes", "tiny", *written)
    assert result.exit_code == 130
    assert "interrupted; nothing was written" in result.stderr
    assert list(tmp_path.iterdir()) == []


# --- the regression check ---


@pytest.fixture
def baseline(tmp_path: Path) -> Path:
    path = tmp_path / "baseline.json"
    path.write_text(Baseline.of(made_report({SWIGLU: 1.0})).text())
    return path


def check(
    call: Call, path: Path, monkeypatch: pytest.MonkeyPatch, ratio: float, *more: object
) -> Any:
    asked = []

    def measured(settings: running.Settings, cases: Any, model: None) -> Report:
        asked.append(settings)
        return made_report(dict.fromkeys(cases, ratio), contexts=False)

    monkeypatch.setattr(bench_check, "measured", measured)
    result = call("bench", "--check", path, *more)
    assert (asked[0].backend, asked[0].dtype, asked[0].threads) == ("cpu", "bf16", 2)
    return result


def test_ratios_that_hold(call: Call, baseline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = check(call, baseline, monkeypatch, 1.2)
    assert result.exit_code == 0
    assert "swiglu/T4-I8" in result.stdout
    assert "held" in result.stdout


def test_a_ratio_that_is_worse_names_the_op(
    call: Call, baseline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = check(call, baseline, monkeypatch, 1.7)
    assert result.exit_code == 1
    assert "swiglu/T4-I8 takes 1.70 times as long as torch, twice measured" in result.stderr
    document = json.loads(check(call, baseline, monkeypatch, 1.7, "--json").stdout)
    assert document["verdicts"][0]["good"] is False


@pytest.mark.usefixtures("in_process")
def test_the_check_measures(call: Call, tmp_path: Path) -> None:
    path = tmp_path / "baseline.json"
    made = Baseline.of(made_report({SWIGLU: 1e9}))
    path.write_text(made.text())
    result = call("bench", "--check", path, "--repeats", 1, "--threads", 1)
    assert result.exit_code == 0, result.output
    assert "warning: the baseline is of a processor with other instruction sets" in result.stderr
