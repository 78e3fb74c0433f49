"""The matrix says what its files show, names the file that was altered, and nothing else."""

import dataclasses
import json
import lzma
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import fake_cases
import pytest
from fake_runs import CLEAN, run, source

from glm5_hal.conformance import golden, static_seal, suite
from glm5_hal.conformance.case import Case
from glm5_hal.conformance.errors import PackageError
from glm5_hal.conformance.manifest import encode
from glm5_hal.conformance.matrix import files, tables
from glm5_hal.conformance.matrix.evidence import Cell, Evidence, Kind, State
from glm5_hal.conformance.matrix.files import FOLDER, read_all, store
from glm5_hal.conformance.matrix.matrix import Matrix
from glm5_hal.conformance.matrix.runs import kind_of, of_package
from glm5_hal.conformance.package import Package, read, seal
from glm5_hal.conformance.runner import Request
from glm5_hal.conformance.sources import SUITE, Source
from glm5_hal.conformance.static_seal import sealed
from glm5_hal.conformance.suite import Suite

CHIP = {"chip": ("fast",), "other": ("exact", "fast")}


@pytest.fixture(autouse=True)
def released(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything is made, and read, by the same suite."""
    monkeypatch.setattr(Suite, "here", classmethod(lambda cls: CLEAN))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("matrix")


@pytest.fixture(scope="module")
def good(home: Path) -> Source:
    return source(fake_cases.good, home / "good-lists")


@pytest.fixture(scope="module")
def mixed(home: Path) -> Source:
    return source(fake_cases.mixed, home / "mixed-lists")


@pytest.fixture(scope="module")
def full(home: Path, good: Source) -> Path:
    seal(run(Request(source=good), home / "full"), home / "full")
    return home / "full.tar"


@pytest.fixture(scope="module")
def part(home: Path, good: Source) -> Path:
    seal(run(Request(source=good, aspects=("run-to-run",)), home / "part"), home / "part")
    return home / "part.tar"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "evidence"


def altered(path: Path, tmp_path: Path, edit: Callable[[dict[str, Any]], None]) -> Path:
    """A package whose manifest was edited by someone who knows that it lists no hash of itself."""
    package = read(path)
    manifest = package.manifest
    edit(manifest)
    changed = tmp_path / "changed"
    changed.mkdir()
    for name, content in {**package.files, "manifest.json": encode(manifest)}.items():
        (changed / name).write_bytes(content)
    return changed


# --- result packages ---


def test_a_package_becomes_a_column(full: Path, folder: Path, good: Source) -> None:
    path = store(full, folder, good)
    assert path == folder / "chip" / "cpu-fast-full.tar.xz"
    assert read(path).id == read(full).id
    matrix = Matrix.of(folder, good, CHIP)
    (evidence,) = matrix.evidence
    assert (evidence.backend, evidence.profile, evidence.scope) == ("chip", "fast", "full")
    assert (evidence.kind, evidence.id) == (Kind.CPU, read(full).id)
    assert evidence.date == read(full).manifest["ended"][:10]
    assert evidence.commit == "c0ffee"
    assert evidence.cells["topk", "batch-invariant"] == Cell(State.PASSED, 1, 1)
    assert matrix.without == (("other", "exact"), ("other", "fast"))


def test_what_no_package_shows_has_no_evidence(full: Path, folder: Path, good: Source) -> None:
    store(full, folder, good)
    matrix = Matrix.of(folder, good, CHIP)
    text = tables.markdown(matrix)
    assert "No evidence of a run: other (exact, fast)." in text
    assert "| rms_norm | no evidence |" in text
    folder.joinpath("chip/cpu-fast-full.tar.xz").unlink()
    empty = tables.markdown(Matrix.of(folder, good, CHIP))
    assert "No evidence of a run: chip (fast), other (exact, fast)." in empty
    assert "topk" not in empty


def test_a_part_of_the_cases_is_called_one(part: Path, folder: Path, good: Source) -> None:
    store(part, folder, good)
    (evidence,) = Matrix.of(folder, good, CHIP).evidence
    assert evidence.scope == "part"
    assert {aspect for _, aspect in evidence.cells} == {"run-to-run"}
    assert evidence.remarks[0].startswith("a part of the cases, which claims nothing")
    assert "| (1/1) |" in tables.markdown(Matrix.of(folder, good, CHIP))


def test_a_failed_case_is_shown(home: Path, folder: Path, mixed: Source) -> None:
    seal(run(Request(source=mixed), home / "mixed"), home / "mixed")
    store(home / "mixed", folder, mixed)
    matrix = Matrix.of(folder, mixed, CHIP)
    assert matrix.evidence[0].cells == {
        ("topk", "function"): Cell(State.BROKEN, 1, 5),
        ("mla_expanded", "function"): Cell(State.DECLARED, 0, 0),
    }
    text = tables.markdown(matrix)
    assert "| topk | ✗· |" in text
    assert "| mla_expanded | ○– |" in text


def test_any_byte_that_changes_is_an_error_that_names_the_file(
    full: Path, folder: Path, good: Source
) -> None:
    path = store(full, folder, good)
    whole = lzma.decompress(path.read_bytes())
    place = whole.index(b'"status":"PASS"')
    path.write_bytes(lzma.compress(whole[:place] + whole[place:].replace(b"PASS", b"FAIL", 1)))
    with pytest.raises(PackageError, match=r"^evidence chip/cpu-fast-full\.tar\.xz: ") as refused:
        read_all(folder, good)
    assert "results.jsonl is not the file that was packed" in str(refused.value)


@pytest.mark.parametrize(
    ("edit", "problem"),
    [
        (lambda m: m.update(backend="other"), "the plan is of chip, not of other"),
        (lambda m: m["counts"].update(PASS=9), "counts are not those of the results"),
        (lambda m: m.update(dirty=True), "does not follow from the results"),
        (lambda m: m.update(quick=True), "the manifest names another must-pass list"),
        (lambda m: m["plan"].update(simulated=True), "the plan's hash is not that of the plan"),
    ],
)
def test_an_edited_manifest_is_found(
    full: Path,
    tmp_path: Path,
    folder: Path,
    good: Source,
    edit: Callable[[dict[str, Any]], None],
    problem: str,
) -> None:
    with pytest.raises(PackageError, match=problem):
        store(altered(full, tmp_path, edit), folder, good)
    assert not folder.exists()


def test_a_dirty_suite_is_no_evidence(
    home: Path, tmp_path: Path, folder: Path, good: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    from glm5_hal.conformance.runner import execute, prepare

    dirty = dataclasses.replace(CLEAN, dirty=True, state="1 changed path: x.py")
    job = dataclasses.replace(prepare(Request(source=good, workers=1)), suite=dirty)
    seal(execute(job, tmp_path / "dirty", lambda *_: None), tmp_path / "dirty")
    with pytest.raises(PackageError, match=r"the suite was dirty \(1 changed path: x\.py\)"):
        store(tmp_path / "dirty", folder, good)


def test_new_cases_make_their_op_outdated_and_no_other(
    full: Path, folder: Path, good: Source, home: Path
) -> None:
    store(full, folder, good)
    grown = source(fake_cases.grown, home / "grown-lists")
    (evidence,) = Matrix.of(folder, grown, CHIP).evidence
    states = {pair: cell.state for pair, cell in evidence.cells.items()}
    assert states["topk", "run-to-run"] is State.OUTDATED
    assert states["topk", "batch-invariant"] is State.PASSED
    assert states["topk", "function"] is State.WAIVED
    assert evidence.remarks == ("cases or golden digests have changed since: topk", "waivers: 2")
    assert "?" in tables.markdown(Matrix.of(folder, grown, CHIP))
    with pytest.raises(PackageError, match="outdated: run it again"):
        store(full, folder, grown)


def test_a_case_that_left_the_selection_makes_nothing_outdated(
    folder: Path, good: Source, home: Path
) -> None:
    wider = source(fake_cases.wider, home / "wider-lists")
    seal(run(Request(source=wider, quick=True), home / "wider"), home / "wider")
    store(home / "wider.tar", folder, good)
    (evidence,) = Matrix.of(folder, good, CHIP).evidence
    assert evidence.scope == "quick"
    assert evidence.cells == {("topk", "function"): Cell(State.PASSED, 2, 2)}
    assert evidence.remarks == ("waivers: 2",)


@pytest.mark.parametrize("later", [fake_cases.wider, fake_cases.shrunk])
def test_a_case_that_a_quick_run_lacks_or_the_suite_dropped_makes_it_outdated(
    folder: Path, tmp_path: Path, later: Callable[[], Mapping[str, Case]]
) -> None:
    before = fake_cases.good if later is fake_cases.wider else fake_cases.wider
    made = source(before, tmp_path / "before")
    seal(run(Request(source=made, quick=True), tmp_path / "run"), tmp_path / "run")
    store(tmp_path / "run.tar", folder, made)
    today = source(later, tmp_path / "later")
    (evidence,) = Matrix.of(folder, today, CHIP).evidence
    assert evidence.cells["topk", "function"].state is State.OUTDATED
    assert evidence.remarks[0] == "cases or golden digests have changed since: topk"


def test_another_version_of_the_suite_makes_everything_outdated(
    full: Path, folder: Path, good: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(full, folder, good)
    later = dataclasses.replace(CLEAN, version="10.0", source="6" * 64)
    monkeypatch.setattr(Suite, "here", classmethod(lambda cls: later))
    (evidence,) = Matrix.of(folder, good, CHIP).evidence
    judged = [cell for cell in evidence.cells.values() if cell.state is not State.DECLARED]
    assert all(cell.state is State.OUTDATED for cell in judged)
    assert evidence.remarks[0] == "made by suite 9.9, contract 1"


@pytest.mark.parametrize(
    ("device", "versions", "simulated", "kind"),
    [
        ("cpu", {}, False, Kind.CPU),
        ("cpu", {"triton": "3.6.0"}, False, Kind.INTERPRETED),
        ("cpu", {"provider": "CPUExecutionProvider"}, False, Kind.CPU),
        ("cpu", {"provider": "XExecutionProvider"}, False, Kind.HARDWARE),
        ("chip:0", {"triton": "3.6.0"}, False, Kind.HARDWARE),
        ("chip:0", {"triton": "3.6.0"}, True, Kind.SIMULATED),
        ("cpu", {}, True, Kind.SIMULATED),
    ],
)
def test_kinds(device: str, versions: Mapping[str, str], simulated: bool, kind: Kind) -> None:
    plan = {"simulated": simulated, "versions": versions}
    assert kind_of({"plan": plan, "machine": {"device": device}}) is kind


def test_other_golden_digests_make_a_case_outdated(
    full: Path, good: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = read(full)
    case = next(result for result in package.results if result.digests)
    exact = dataclasses.replace(case)
    from glm5_hal.conformance.matrix.runs import _other_digests

    monkeypatch.setattr(golden, "of", lambda name: {"output0": "cd" * 32})
    assert _other_digests(exact, "exact")
    assert not _other_digests(exact, "fast")
    monkeypatch.setattr(golden, "of", lambda name: dict(case.digests))
    assert not _other_digests(exact, "exact")


# --- which of several counts ---


def evidence(**changes: Any) -> Evidence:
    """A run of the CPU's, or what is asked for."""
    plain = Evidence(
        backend="chip",
        profile="exact",
        kind=Kind.CPU,
        scope="full",
        device="a processor",
        date="2026-02-11",
        commit="c0ffee",
        id="ab" * 32,
        file="chip/a.tar.xz",
        moment="2026-02-11T10:00:00+00:00",
        cells={("topk", "run-to-run"): Cell(State.PASSED, 1, 1)},
    )
    return dataclasses.replace(plain, **changes)


LATER = {"moment": "2026-02-12T10:00:00+00:00", "file": "chip/b.tar.xz"}


@pytest.mark.parametrize(
    ("old", "new", "replaced"),
    [
        ({}, {}, True),
        ({}, {"device": "another processor"}, True),
        ({}, {"scope": "quick"}, False),
        ({"scope": "quick"}, {}, True),
        ({"scope": "quick"}, {"scope": "part"}, False),
        ({}, {"kind": Kind.SIMULATED}, False),
        ({}, {"profile": "fast"}, False),
        ({}, {"backend": "other"}, False),
        ({"kind": Kind.HARDWARE}, {"kind": Kind.HARDWARE, "device": "another"}, False),
        ({"kind": Kind.AUDIT, "scope": "x"}, {"kind": Kind.AUDIT, "scope": "x"}, True),
        ({"kind": Kind.AUDIT, "scope": "x"}, {"kind": Kind.AUDIT, "scope": "y"}, False),
        ({"scope": "part"}, {"scope": "part", "cells": {}}, False),
    ],
)
def test_a_later_run_of_no_fewer_cases_replaces(
    old: dict[str, Any],
    new: dict[str, Any],
    replaced: bool,
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    good: Source,
) -> None:
    both = [evidence(**{**LATER, **new}), evidence(**old)]
    monkeypatch.setattr("glm5_hal.conformance.matrix.matrix.read_all", lambda *_: both)
    assert len(Matrix.of(folder, good, CHIP).evidence) == (1 if replaced else 2)


def test_simulated_devices_have_a_table_of_their_own(
    monkeypatch: pytest.MonkeyPatch, folder: Path, good: Source
) -> None:
    both = [evidence(), evidence(kind=Kind.SIMULATED, backend="other")]
    monkeypatch.setattr("glm5_hal.conformance.matrix.matrix.read_all", lambda *_: both)
    found = {table.title: table for table in tables.tables(Matrix.of(folder, good, CHIP))}
    assert found["exact profile"].columns == ("op", "chip")
    assert found["exact profile, simulated"].columns == ("op", "other")
    assert found["exact profile, simulated"].rows[0] == ("", "simulated")
    assert "nothing of this is about a chip" in found["exact profile, simulated"].note


# --- static documents ---


def document(**changes: Any) -> dict[str, Any]:
    findings = [
        {"op": "topk", "profile": "exact", "target": "chip_1", "verdict": "ok"},
        {"op": "topk", "profile": "exact", "target": "chip_1", "verdict": "broken"},
        {"op": "rope", "profile": "fast", "target": "chip_1", "verdict": "ok"},
        {"op": "rope", "profile": "fast", "target": "chip_2", "verdict": "not taken"},
    ]
    plain = {
        "evidence": "static",
        "triton": "3.6.0",
        "kernels": "glm5_hal.backends.cuda:sm_90.yaml",
        "findings": findings,
    }
    return sealed({**plain, **changes}, (static_seal.KERNELS,))


def written(path: Path, content: Mapping[str, Any]) -> Path:
    path.write_text(json.dumps(content))
    return path


def test_a_static_document_counts_kernels_and_claims_no_level(
    tmp_path: Path, folder: Path, good: Source
) -> None:
    path = store(written(tmp_path / "audit.json", document()), folder, good)
    assert path == folder / "cuda" / "static-audit-chip_1.json.xz"
    exact, fast = Matrix.of(folder, good, {"cuda": ("exact",)}).evidence
    assert exact.cells == {("topk", "static"): Cell(State.BROKEN, 1, 2)}
    assert fast.cells == {("rope", "static"): Cell(State.PASSED, 1, 1)}
    assert (exact.kind, exact.backend, exact.scope) == (Kind.AUDIT, "cuda", "chip_1")
    text = tables.markdown(Matrix.of(folder, good, {"cuda": ("exact",)}))
    assert "## Exact profile, static" in text
    assert "| topk | 1/2 |" in text
    assert "No evidence of a run: cuda (exact)." in text


def test_kinds_of_static_documents(tmp_path: Path, folder: Path, good: Source) -> None:
    lowered = document(
        compiler="x 1.0", target="chip_9", kernels="glm5_hal.kernels.triton:portable.yaml"
    )
    del lowered["triton"]
    plain = {k: v for k, v in lowered.items() if k != static_seal.DIGEST}
    lowered = sealed(plain, (static_seal.KERNELS,))
    store(written(tmp_path / "lowered.json", lowered), folder, good)
    schema = document(kind="schema check", backend="other", compiler="y 2.0")
    store(written(tmp_path / "schema.json", schema), folder, good)
    kinds = {(e.kind, e.backend) for e in read_all(folder, good)}
    assert kinds == {(Kind.LOWERING, ""), (Kind.SCHEMA, "other")}


def test_kernels_that_no_backend_runs_are_no_evidence(
    tmp_path: Path, folder: Path, good: Source
) -> None:
    with pytest.raises(PackageError, match="it is about bad kernels, which no backend runs"):
        store(written(tmp_path / "bad.json", document(kernels="bad kernels")), folder, good)
    assert static_seal.table_file("bad kernels") == ""
    table = static_seal.table_file("glm5_hal.backends.cuda:sm_90.yaml")
    assert table == "glm5_hal/backends/cuda/sm_90.yaml"
    assert table in suite.source_files()


def test_an_altered_document_is_named(tmp_path: Path, folder: Path, good: Source) -> None:
    path = store(written(tmp_path / "audit.json", document()), folder, good)
    text = lzma.decompress(path.read_bytes()).replace(b'"broken"', b'"ok"')
    path.write_bytes(lzma.compress(text))
    with pytest.raises(PackageError, match=r"^evidence cuda/.*its digest is another"):
        read_all(folder, good)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("{", "no JSON"),
        ("[]", 'expected a document with "evidence": "static"'),
        ('{"evidence": "static"}', "it has no 'digest'"),
    ],
)
def test_anything_else_is_no_document(
    tmp_path: Path, folder: Path, good: Source, content: str, problem: str
) -> None:
    path = tmp_path / "audit.json"
    path.write_text(content)
    with pytest.raises(PackageError, match=problem):
        store(path, folder, good)


def test_code_that_has_changed_makes_its_reading_outdated(
    tmp_path: Path, folder: Path, good: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(written(tmp_path / "audit.json", document()), folder, good)
    kernel = tmp_path / "kernel.py"
    kernel.write_text("changed")
    there = {f"{static_seal.KERNELS}topk.py": kernel}
    monkeypatch.setattr(static_seal, "source_files", lambda: there)
    found = read_all(folder, good)
    assert all(e.outdated for e in found)
    assert "the code that was read has changed since" in found[0].remarks[0]
    with pytest.raises(PackageError, match="it is outdated: the code that was read has changed"):
        store(tmp_path / "audit.json", folder, good)


# --- the folder ---


def test_files_that_do_not_belong_are_named(folder: Path, good: Source) -> None:
    (folder / "chip").mkdir(parents=True)
    (folder / "chip" / "notes.txt").write_text("passes, believe me")
    with pytest.raises(PackageError, match=r"^evidence chip/notes\.txt: it is neither"):
        read_all(folder, good)
    with pytest.raises(PackageError, match="no folder of evidence"):
        read_all(folder / "nowhere", good)


@pytest.mark.parametrize("cut", [slice(None, -20), slice(None, 40)])
def test_a_truncated_file_is_named(full: Path, folder: Path, good: Source, cut: slice) -> None:
    path = store(full, folder, good)
    path.write_bytes(path.read_bytes()[cut])
    with pytest.raises(PackageError, match=r"^evidence chip/.*truncated"):
        read_all(folder, good)


def test_evidence_is_no_part_of_the_suite(tmp_path: Path) -> None:
    assert not any(name.startswith(suite.EVIDENCE) for name in suite.source_files())
    assert files.FOLDER.name == Path(suite.EVIDENCE).name


def test_the_committed_evidence_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    """With today's suite: nothing is altered, and a package is what its name says."""
    monkeypatch.undo()
    found = read_all(FOLDER, SUITE)
    assert found
    for each in found:
        assert each.file.startswith(f"{each.backend or 'portable'}/"), each.file
    assert sum(path.stat().st_size for path in FOLDER.rglob("*.xz")) < 3 * 2**20


def test_a_package_in_memory_is_what_is_stored(full: Path, good: Source) -> None:
    package = read(full)
    assert of_package(Package(dict(package.files)), "x", good).id == package.id
