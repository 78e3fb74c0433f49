"""`glm5-hal conformance`: what it prints, and what it returns."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import fake_cases
import pytest
from fake_runs import CLEAN, source
from typer.testing import CliRunner, Result

from glm5_hal.cli import app
from glm5_hal.conformance import sources
from glm5_hal.conformance.suite import Suite

Call = Callable[..., Result]


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*os.environ]:
        if name.startswith("GLM5_HAL_") or name == "CI":
            monkeypatch.delenv(name)
    monkeypatch.setattr(Suite, "here", classmethod(lambda cls: CLEAN))


@pytest.fixture
def call() -> Call:
    def invoke(*args: object) -> Result:
        result = CliRunner().invoke(app, ["conformance", *map(str, args)])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return invoke


@pytest.fixture
def on_chip(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    """Fake cases on the fake backend; the lists are those of the cases."""

    def use(catalogue: Callable[[], dict[str, fake_cases.Case]]) -> None:
        monkeypatch.setattr(sources, "SUITE", source(catalogue, tmp_path / "lists"))

    return use


# --- run ---


def test_a_run_that_passes_leaves_a_package(
    call: Call, on_chip: Callable[..., None], tmp_path: Path
) -> None:
    on_chip(fake_cases.good)
    out = tmp_path / "out"
    result = call("run", "--workers", 1, "--out", out)
    assert result.exit_code == 0, result.output
    table = [line.split() for line in result.stdout.splitlines()]
    assert ["op", "function", "run-to-run", "thread-invariant", "batch-invariant"] in table
    assert ["topk", "2/3", "w1", "1/1", "·", "1/1"] in table
    assert ["mla_expanded", "n/a", "–", "–", "–"] in table
    assert "not run: thread-invariant: not claimed by backend chip" in result.stdout
    assert "cross-backend: does not exist yet in this version" in result.stdout
    assert "shows run-to-run of 1 ops, batch-invariant of 1 ops" in result.stdout
    assert "waiver 'NOTHING/*' matches no case" in result.stderr

    for package in (out, tmp_path / "out.tar"):
        verified = call("verify", package)
        assert verified.exit_code == 0, verified.output
        assert verified.stdout.startswith("package ")
    assert json.loads(call("verify", out, "--json").stdout)["stands"] is True

    made = call("report", out)
    assert made.stdout.strip() == str(tmp_path / "out.html")
    assert (tmp_path / "out.html").read_bytes() == (out / "report.html").read_bytes()

    compared = call("compare", out, tmp_path / "out.tar")
    assert compared.exit_code == 0
    assert ["topk", "function", "2/2", "yes"] in [s.split() for s in compared.stdout.splitlines()]
    assert len(json.loads(call("compare", out, out, "--json").stdout)["cases"]) == 5

    (out / "results.jsonl").write_text("")
    edited = call("verify", out)
    assert edited.exit_code == 1
    assert "results.jsonl is not the file that was packed" in edited.stderr


def test_a_failure_teaches_and_a_changed_list_is_one(
    call: Call, on_chip: Callable[..., None], tmp_path: Path
) -> None:
    on_chip(fake_cases.one_failure)
    (tmp_path / "lists" / "fast-full.txt").write_text("TOPK-1/parity/a\nTOPK-9/parity/a\n")
    result = call("run", "--workers", 1)
    assert result.exit_code == 1
    block = result.stdout.partition("\n\n")[0]
    assert block == (
        "FAIL TOPK-1/parity/b[1-2]  (function of topk)\n"
        "  requires  TOPK-1: Set: the k best of columns [0, lengths[t]) by score descending; "
        "among equal scores the lowest index wins.\n"
        "  found     other bytes\n"
        "  changed   row 1 alone\n"
        "  first at  output 0 at [1, 1]\n"
        "  expected  0x00000000 (0.0)\n"
        "  got       0x00000001 (1.401298464324817e-45)\n"
        "  how much  1 ULP apart; 2 of 6 elements differ\n"
        "  hint      look at the tail\n"
        "  again     GLM5_HAL_BACKEND=chip glm5-hal conformance run --case 'TOPK-1/parity/b[1-2]'"
    )
    assert "topk  2/3 ✗1" in result.stdout
    assert "error: 1 cases: FAIL" in result.stderr
    assert "FAIL TOPK-1/parity/b[1-2]" in result.stderr  # while it runs
    assert "1 cases of the must-pass list fast-full are missing: TOPK-9/parity/a" in result.stderr
    assert "2 cases are not in the must-pass list fast-full" in result.stderr


def test_json_is_all_there_is_on_stdout(call: Call, on_chip: Callable[..., None]) -> None:
    on_chip(fake_cases.one_failure)
    result = call("run", "--workers", 1, "--case", "TOPK-1/parity/b[1-2]", "--json")
    assert result.exit_code == 1
    document = json.loads(result.stdout)
    assert document["passed"] is False
    assert document["problems"] == ["1 cases: FAIL"]
    assert document["shown"]["none_because"] == ["partial selection", "1 cases: FAIL"]
    (found,) = document["results"]
    assert found["difference"]["index"] == [1, 1]


def test_a_partial_run_may_pass_and_claims_nothing(
    call: Call, on_chip: Callable[..., None], tmp_path: Path
) -> None:
    on_chip(fake_cases.good)
    result = call("run", "--workers", 1, "--ops", "linear", "--out", tmp_path / "out")
    assert result.exit_code == 0
    assert "partial: claims nothing (partial selection)" in result.stdout
    verified = call("verify", tmp_path / "out")
    assert verified.exit_code == 1
    assert "claims nothing: a partial selection" in verified.stderr


def test_a_run_that_executes_nothing(call: Call, on_chip: Callable[..., None]) -> None:
    on_chip(fake_cases.only_unclaimed)
    result = call("run", "--workers", 1)
    assert result.exit_code == 3
    assert "no case ran" in result.stderr
    assert call("run", "--quick").exit_code == 3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--backend", "nope"), "unknown backend 'nope'; registered: chip"),
        (("--numerics", "rough"), "'rough'"),
        (("--ops", "nope"), "no op nope; ops with cases: linear, mla_expanded, topk"),
        (("--case", "TOPK-1/parity/aa"), "close: TOPK-1/parity/a"),
        (("--workers", "0"), "workers"),
    ],
)
def test_usage(
    call: Call, on_chip: Callable[..., None], arguments: tuple[str, ...], said: str
) -> None:
    on_chip(fake_cases.good)
    result = call("list" if arguments[0] == "--numerics" else "run", *arguments)
    assert result.exit_code == 2
    assert said in result.stderr


def test_the_environment_names_the_backend(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLM5_HAL_BACKEND", "nope")
    result = call("run")
    assert result.exit_code == 2
    assert "unknown backend 'nope'; registered: " in result.stderr
    assert "cpu" in result.stderr


def test_a_foreign_directory_is_usage(
    call: Call, on_chip: Callable[..., None], tmp_path: Path
) -> None:
    on_chip(fake_cases.good)
    assert call("run", "--out", tmp_path).exit_code == 2


# --- the others ---


def test_list(call: Call, on_chip: Callable[..., None]) -> None:
    on_chip(fake_cases.good)
    lines = call("list", "--ops", "linear,mla_expanded").stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["case", "MLA-1/parity/a", "LINEAR-1/parity/a"]
    quick = json.loads(call("list", "--quick", "--json").stdout)
    assert [(case["id"], case["requirement"]) for case in quick] == [("TOPK-1/parity/a", "TOPK-1")]
    assert call("list", "--ops", "nope").exit_code == 2
    assert call("list", "--quick", "--ops", "linear").exit_code == 3


def test_explain(call: Call, on_chip: Callable[..., None]) -> None:
    on_chip(fake_cases.good)
    text = call("explain", "topk-1").stdout
    assert text.startswith("TOPK-1: Set: the k best")
    assert "def topk(" in text
    assert "Indices [T, k] of the k best scores" in text
    assert "best = torch.sort(keys" in text
    assert text.endswith("  TOPK-1/parity/b  (function of topk)\n")
    assert "1 cases:" in call("explain", "RUN-1").stdout
    unknown = call("explain", "TOPK-11")
    assert unknown.exit_code == 2
    assert "TOPK-1" in unknown.stderr


def test_freeze(call: Call, on_chip: Callable[..., None], tmp_path: Path) -> None:
    on_chip(fake_cases.good)
    assert call("freeze").exit_code == 2  # no checkout
    assert call("freeze", "--check").exit_code == 0
    (tmp_path / "pyproject.toml").touch()
    lists = tmp_path / "conformance" / "mustpass"
    sources.SUITE = type(sources.SUITE)("fake_cases:good", "fake_chip.chip:resolve", lists)
    assert call("freeze", "--check").exit_code == 1
    assert not lists.exists()
    assert call("freeze").stdout.splitlines() == [
        "fast-full: 8 cases, 8 new, 0 gone",
        "fast-quick: 1 cases, 1 new, 0 gone",
    ]
    assert (lists / "fast-quick.txt").read_text() == "TOPK-1/parity/a\n"
    assert call("freeze", "--check").exit_code == 0


def test_packages_that_are_not_there(call: Call, tmp_path: Path) -> None:
    assert call("verify", tmp_path / "none").exit_code == 2
    assert call("verify", tmp_path).exit_code == 1
    assert call("compare", tmp_path, tmp_path).exit_code == 1
