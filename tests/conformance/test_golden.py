"""Golden digests: complete, those of the definitions, and compared in every exact case."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import fake_cases
import pytest
from typer.testing import CliRunner

from glm5_hal import Numerics
from glm5_hal.cli import app
from glm5_hal.conformance import golden
from glm5_hal.conformance.case import Case, Evidence, Status
from glm5_hal.conformance.catalogue import catalogue
from glm5_hal.conformance.families.judging import case as case_of
from glm5_hal.conformance.families.judging import in_exact, recorded
from glm5_hal.conformance.golden import maker
from glm5_hal.conformance.judge import judge
from glm5_hal.conformance.reference_backend import reference_runtime
from glm5_hal.conformance.subjects import Variant, variants

KNOWN = {"exact/TOPK-1/parity/a": {"output0": "ab" * 32}}
Record = Callable[[Mapping[str, golden.Digests]], None]


@pytest.fixture
def record(monkeypatch: pytest.MonkeyPatch) -> Record:
    """Put other digests in the place of the recorded ones."""

    def put(digests: Mapping[str, golden.Digests]) -> None:
        monkeypatch.setattr(golden, "known", lambda: digests)

    return put


def exact(name: str, check: Callable[..., Evidence] = fake_cases.passes) -> Case:
    return Case(name, "TOPK-1", "topk", "function", "parity", check, Numerics.EXACT)


# --- the file ---


def test_the_file_is_sorted_and_has_a_case_a_line() -> None:
    text = golden.FILE.read_text("utf-8")
    digests = golden.parse(text)
    assert text == golden.encode(digests)
    assert text.count("\n") == len(digests) + 2
    every = [digest for outputs in digests.values() for digest in outputs.values()]
    assert all(len(digest) == 64 for digest in every)


def test_it_names_cases_of_the_exact_profile_and_leaves_none_out() -> None:
    names = {case.id for case in catalogue().values() if case.profile is Numerics.EXACT}
    assert names == set(golden.known())


def test_it_is_written_whole(tmp_path: Path) -> None:
    path = tmp_path / "exact.json"
    golden.save({"b": {"output1": "1", "output0": "0"}, "a": {}}, path)
    assert path.read_text() == '{\n"a": {},\n"b": {"output0": "0", "output1": "1"}\n}\n'
    assert json.loads(path.read_text()) == golden.known(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["exact.json"]


# --- the judgement ---


def test_every_exact_case_is_compared(record: Record) -> None:
    record(KNOWN)
    runtime = reference_runtime(Numerics.EXACT)
    assert judge(exact("exact/TOPK-1/parity/a"), runtime).status is Status.PASS
    other = {"output0": "cd" * 32, "output1": "ef" * 32}
    result = judge(exact("exact/TOPK-1/parity/a", lambda runtime: Evidence(other)), runtime)
    assert result.status is Status.FAIL
    assert result.message == "golden digest differs: output0, output1 of 1 outputs"
    assert "parity-bytes" in result.hint
    assert result.digests == other


def test_a_case_without_a_digest_is_a_defect_with_a_remedy(record: Record) -> None:
    record(KNOWN)
    runtime = reference_runtime(Numerics.EXACT)
    result = judge(exact("exact/TOPK-1/parity/new"), runtime)
    assert result.status is Status.FAIL
    assert "has no golden digest; `glm5-hal conformance golden --write`" in result.message
    silent = exact("exact/TOPK-1/parity/new", lambda runtime: Evidence())
    assert judge(silent, runtime).status is Status.PASS
    with golden.set_aside():
        assert judge(exact("exact/TOPK-1/parity/new"), runtime).status is Status.PASS


def test_the_fast_profile_has_no_golden_digests(record: Record) -> None:
    record({})
    fast = fake_cases.case("TOPK-1/parity/a", fake_cases.passes)
    assert judge(fast, reference_runtime()).status is Status.PASS


def test_a_stale_digest_is_told_from_a_wrong_backend(record: Record) -> None:
    v: Variant = variants("rope", quick_only=True)[0]
    case = in_exact(case_of("ROPE-EXACT-1", "parity", v, recorded(v.call, "a hint")))
    record({case.id: {"output0": "00" * 32}})
    right = judge(case, reference_runtime(Numerics.EXACT))
    assert right.message == "the golden digest is not the definition's"
    wrong = judge(case, reference_runtime(Numerics.FAST))
    assert wrong.message.startswith("not the bytes of the definition: output 0 at [")
    assert wrong.hint == "a hint"
    assert wrong.difference is not None


# --- made from the definitions ---


def test_the_recorded_digests_are_those_of_the_definitions() -> None:
    """The quick cases; `golden --check` takes all of them."""
    made = maker.make(maker.names(quick=True), workers=2)
    assert maker.drift(made, whole=False) == maker.Drift((), (), ())


def test_drift_is_named(record: Record) -> None:
    record({"a": {"output0": "1"}, "b": {"output0": "1"}, "gone": {"output0": "1"}})
    made = {"a": {"output0": "1"}, "b": {"output0": "2"}, "c": {"output0": "1"}}
    found = maker.drift(made, whole=True)
    assert found == maker.Drift(("b",), ("c",), ("gone",))
    assert not found.none
    assert maker.drift(made, whole=False).gone == ()


# --- the command ---


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Two cases stand for all."""
    names = [name for name in maker.names(quick=True) if name.startswith("exact/EXACT-READ-1/")][:2]
    monkeypatch.setattr(maker, "names", lambda *, quick=False: names)
    return names


def golden_command(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["conformance", "golden", "--workers", "1", *arguments])
    return result.exit_code, result.output


def test_check_says_what_drifted(few: list[str], record: Record) -> None:
    assert golden_command("--check", "--quick")[0] == 0
    record({few[0]: {"output0": "00"}})
    code, said = golden_command("--check", "--quick")
    assert code == 1
    assert said.splitlines()[:2] == [f"changed {few[0]}", f"new {few[1]}"]
    assert "2 digests of 2 cases" in said


def test_write_records_and_says_how_long(
    few: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "conformance" / "golden"
    monkeypatch.setattr(golden, "FILE", folder / "exact.json")
    code, said = golden_command("--write")
    assert code == 2
    assert "is not in a checkout" in said
    folder.mkdir(parents=True)
    (tmp_path / "pyproject.toml").touch()
    saved: list[Mapping[str, golden.Digests]] = []
    monkeypatch.setattr(golden, "save", saved.append)
    code, said = golden_command("--write")
    assert code == 0
    assert [sorted(digests) for digests in saved] == [sorted(few)]
    assert " s\n" in said


@pytest.mark.parametrize("arguments", [(), ("--write", "--check"), ("--write", "--quick")])
def test_usage(arguments: tuple[str, ...]) -> None:
    assert golden_command(*arguments)[0] == 2
