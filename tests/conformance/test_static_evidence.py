"""An audit travels with a result package, is drawn in its report, and counts as no case."""

import json
from pathlib import Path
from typing import Any

import fake_cases
import pytest
from fake_runs import CLEAN, run, source

from glm5_hal.conformance.audit.auditing import Finding, Verdict
from glm5_hal.conformance.audit.rules import RULES, Judgement, Status
from glm5_hal.conformance.errors import PackageError
from glm5_hal.conformance.package import STATIC_FILE, Package, read, render_report, seal
from glm5_hal.conformance.report import render
from glm5_hal.conformance.runner import Outcome, Request
from glm5_hal.conformance.sources import Source
from glm5_hal.conformance.static_evidence import parse
from glm5_hal.conformance.suite import Suite
from glm5_hal.conformance.verify import verify

GOOD = dict.fromkeys(RULES, Judgement(Status.PASSED))
BAD = {**GOOD, "AUDIT-FMA-1": Judgement(Status.BROKEN, ("fma.rn.f32 <%f1>",))}
UNSEEN = dict.fromkeys(RULES, Judgement(Status.UNSEEN, why="the compiler made no code"))


def document(*findings: Finding) -> dict[str, Any]:
    """As ``glm5-hal audit --out`` writes it."""
    return {
        "evidence": "static",
        "triton": "3.6.0",
        "kernels": "the project's kernels",
        "rules": {name: rule.requirement.text for name, rule in RULES.items()},
        "findings": [finding.to_dict() for finding in findings],
    }


def audited(**changes: Any) -> bytes:
    found = document(
        Finding("topk/exact/topk", "topk", "exact", "chip_1", Verdict.CLEAN, GOOD),
        Finding("linear/exact/cut", "linear", "exact", "chip_1", Verdict.BROKEN, BAD),
        Finding("topk/exact/topk", "topk", "exact", "chip_2", Verdict.KNOWN, UNSEEN, "no such"),
    )
    return json.dumps(found | changes).encode()


@pytest.fixture(scope="module")
def lists(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return source(fake_cases.good, tmp_path_factory.mktemp("lists"))


@pytest.fixture
def outcome(lists: Source, tmp_path: Path) -> Outcome:
    return run(Request(source=lists), tmp_path / "run")


@pytest.fixture(autouse=True)
def released(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Suite, "here", classmethod(lambda cls: CLEAN))


def test_it_is_read_as_it_was_written() -> None:
    found = parse(audited(), "a.json")
    assert found.compiler == "Triton 3.6.0"
    assert found.targets == ("chip_1",)
    assert found.refused == ("chip_2",)
    assert found.tally("AUDIT-FMA-1", "chip_1") == {"passed": 1, "broken": 1}
    (broken,) = found.broken
    assert broken.broken == {"AUDIT-FMA-1": ["fma.rn.f32 <%f1>"]}


def test_a_package_with_an_audit_stands_and_shows_it(
    outcome: Outcome, lists: Source, tmp_path: Path
) -> None:
    sealed = seal(outcome, tmp_path / "run", audited())
    package = read(tmp_path / "run.tar")
    assert package.id == sealed.id
    assert verify(package, lists) == []
    assert STATIC_FILE in package.manifest["files"]
    report = package.files["report.html"].decode()
    assert "static: Triton 3.6.0 compiled" in report
    assert "fma.rn.f32 &lt;%f1&gt;" in report
    assert "does not take chip_2" in report
    assert render_report(package).encode() == package.files["report.html"]


def test_an_audit_is_no_case(outcome: Outcome, tmp_path: Path) -> None:
    without = seal(outcome, tmp_path / "run").manifest
    (tmp_path / "again").mkdir()
    (tmp_path / "again" / "run.json").write_bytes((tmp_path / "run" / "run.json").read_bytes())
    with_one = seal(outcome, tmp_path / "again", audited()).manifest
    assert with_one["counts"] == without["counts"]
    assert with_one["shown"] == without["shown"]


def test_a_report_without_an_audit_says_so() -> None:
    assert "No audit of generated code is attached" in render({}, [])


def test_an_exchanged_or_smuggled_audit_is_found(
    outcome: Outcome, lists: Source, tmp_path: Path
) -> None:
    package = seal(outcome, tmp_path / "run", audited())
    other = Package({**package.files, STATIC_FILE: audited(triton="9.9")})
    assert verify(other, lists) == [
        f"{STATIC_FILE} is not the file that was packed: its SHA-256 differs from the manifest's"
    ]
    plain = {name: content for name, content in package.files.items() if name != STATIC_FILE}
    assert verify(Package(plain), lists) == [f"{STATIC_FILE} is missing"]
    bare = seal(outcome, tmp_path / "run")
    smuggled = Package({**bare.files, STATIC_FILE: audited()})
    assert verify(smuggled, lists) == [f"{STATIC_FILE} is not listed in the manifest"]


FAULTS = {
    "no JSON": (b"{", "no JSON"),
    "another document": (b'{"evidence": "hardware"}', "expected the document of an audit"),
    "a field is missing": (b'{"evidence": "static"}', "not as an audit writes it"),
    "other rules": (audited(rules={"AUDIT-FMA-1": "x"}), "does not judge the rules"),
    "an unknown status": (
        audited().replace(b'"status": "passed"', b'"status": "fine"', 1),
        "status 'fine', expected passed, broken",
    ),
    "a verdict that does not follow": (
        audited().replace(b'"verdict": "broken"', b'"verdict": "ok"'),
        "is called ok and breaks AUDIT-FMA-1",
    ),
}


@pytest.mark.parametrize(("content", "message"), FAULTS.values(), ids=FAULTS)
def test_what_is_no_audit_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(PackageError, match=f"^a.json: .*{message}"):
        parse(content, "a.json")
