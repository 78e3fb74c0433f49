"""`glm5-hal audit`: what it finds, what it says, and what it returns."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from audits import SOUND, audit, code, fragile, python
from typer.testing import CliRunner

from glm5_hal import Numerics
from glm5_hal.backends.torch_triton.backend import missing_triton
from glm5_hal.cli import app
from glm5_hal.conformance.audit import auditing
from glm5_hal.conformance.audit.rules import RULES, SPILL_BOUND, Status
from glm5_hal.conformance.audit.targets import Target, targets

if missing := missing_triton():
    pytest.skip(missing, allow_module_level=True)

CLEAN = (SOUND, "rms_norm/exact/bf16")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for compiled kernels."""
    return tmp_path_factory.mktemp("compiled")


def statuses(findings: list[dict[str, Any]]) -> dict[tuple[str, str, str], str]:
    """Status by kernel, target and rule."""
    return {
        (f["kernel"], f["target"], rule): found["status"]
        for f in findings
        for rule, found in f["rules"].items()
    }


def test_every_bad_kernel_breaks_its_own_rule_on_each_target(cache: Path, tmp_path: Path) -> None:
    done = audit(cache, "--bad", "--workers", 1, "--out", tmp_path / "bad.json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "every bad kernel breaks its own rule and no other" in done.stdout
    findings = json.loads((tmp_path / "bad.json").read_text("utf-8"))["findings"]
    broken = {
        (target, rule)
        for (_, target, rule), status in statuses(findings).items()
        if status == "broken"
    }
    assert {rule for _, rule in broken} == set(RULES)
    for rule in RULES:
        assert {target for target, its in broken if its == rule} >= {"sm_90", "gfx942"}
    for finding in findings:
        for found in finding["rules"].values():
            assert bool(found.get("lines")) == (found["status"] == "broken")


def test_a_bad_kernel_that_no_rule_finds_is_named(cache: Path) -> None:
    source = """
from glm5_hal.conformance.audit import auditing, rules, targets
from glm5_hal.conformance.audit.bad import BAD
del rules.RULES["AUDIT-DIVIDE-1"]
(bad,) = (kernel for kernel in BAD if kernel.name == "bad.divided")
(case,) = auditing.cases(lambda: [bad], targets.chosen(["gfx942"]))
print(*auditing.missed([auditing.judge(bad, case)]))
"""
    done = python(cache, "-c", source)
    assert done.stdout.strip() == (
        "bad.divided on gfx942 should break AUDIT-DIVIDE-1; found: nothing"
    ), done.stderr


def test_clean_kernels_are_clean_and_the_table_names_every_rule(
    cache: Path, tmp_path: Path
) -> None:
    names, out = "sm_90,gfx942,gfx936", tmp_path / "audit.json"
    choice = ("--target", names, "--kernel", ",".join(CLEAN), "--workers", 1)
    done = audit(cache, *choice, "--out", out)
    assert done.returncode == 0, done.stdout + done.stderr
    table = [line.split() for line in done.stdout.splitlines()]
    assert ["kernel", "sm_90", "gfx942"] in table
    assert [SOUND, "ok", "ok"] in table
    assert ["AUDIT-FMA-1", "2", "2"] in table
    assert ["AUDIT-INT8-1", "–", "–"] in table
    assert "4 of 4 are good" in done.stdout
    assert "does not take gfx936 (Hygon's family): unsupported target: 'gfx936'" in done.stdout
    assert "nothing was run" in done.stdout

    document = json.loads(out.read_text("utf-8"))
    assert document["evidence"] == "static"
    assert document["rules"] == {name: r.requirement.text for name, r in RULES.items()}
    assert {n: t["taken"] for n, t in document["targets"].items()} == {
        "sm_90": True,
        "gfx942": True,
        "gfx936": False,
    }
    found = statuses(document["findings"])
    assert set(found) == {
        (kernel, target, rule) for kernel in CLEAN for target in names.split(",") for rule in RULES
    }
    assert set(found.values()) == {"passed", "does not apply", "not judged"}
    for (_, target, _), status in found.items():
        assert (status == "not judged") == (target == "gfx936")
    for finding in document["findings"]:
        assert finding["verdict"] == ("not taken" if finding["target"] == "gfx936" else "ok")
        if finding["verdict"] == "ok":
            assert finding["shared"] >= 0
            assert 0 <= finding["spills"] <= SPILL_BOUND
            assert finding["grid"] == [32768, 1, 1]
            assert finding["warps"] in (4, 8)
        for judged in finding["rules"].values():
            assert bool(judged.get("why")) == (judged["status"] != "passed")


def test_names_of_no_kernel_are_told(cache: Path) -> None:
    done = audit(cache, "--kernel", "rms_norm,nosuch", "--target", "sm_90")
    assert done.returncode == 2
    assert "no kernel has 'nosuch' in its name" in done.stderr
    assert "they begin with: row_exponents, linear" in done.stderr


def test_a_compiler_that_ends_its_process_refuses_one_kernel_only(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)  # for the processes that compile
    monkeypatch.setenv("TRITON_CACHE_DIR", str(cache))
    chip = targets()["sm_90"]
    work = [auditing.Case(name, name, "exact", chip) for name in ("dying", SOUND)]
    dying, sound = auditing.audit(fragile, work, workers=1)  # type: ignore[arg-type]
    assert dying.verdict is auditing.Verdict.REFUSED
    assert dying.reason == "the compiler ended its process"
    assert not dying.good
    assert {found.status for found in dying.rules.values()} == {Status.UNSEEN}
    assert sound.verdict is auditing.Verdict.CLEAN


class Anything:
    """A kernel that is never compiled."""

    name = op = "anything"
    profile = Numerics.EXACT


def judged(monkeypatch: pytest.MonkeyPatch, expected: str, **parts: object) -> auditing.Finding:
    """The finding of some code for a chip of which something is expected."""
    chip = Target(**{**vars(targets()["sm_90"]), "expected": expected})
    monkeypatch.setattr(auditing, "compile_for", lambda kernel, target: code("sm_90", **parts))
    return auditing.judge(Anything(), auditing.Case("anything", "anything", "exact", chip))  # type: ignore[arg-type]


def test_a_target_that_is_suddenly_taken_wants_to_be_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    finding = judged(monkeypatch, "refused")
    assert finding.verdict is auditing.Verdict.SURPRISE
    assert not finding.good
    assert judged(monkeypatch, "compiles").verdict is auditing.Verdict.CLEAN
    assert judged(monkeypatch, "compiles", shared=1 << 20).verdict is auditing.Verdict.BROKEN


@pytest.mark.parametrize("name", ["sm_9", "gfx942,nosuch", "SM_90"])
def test_names_of_no_target_are_told(name: str) -> None:
    result = CliRunner().invoke(app, ["audit", "--target", name])
    assert result.exit_code == 2
    assert f"no target {name.split(',')[-1]!r}; known: sm_80" in result.stderr


@pytest.mark.parametrize(
    "table", ["nosuch", "nosuch:x.yaml", "glm5_hal.kernels.triton:nosuch.yaml"]
)
def test_names_of_no_table_are_told(table: str, cache: Path) -> None:
    with pytest.raises(auditing.AskedError, match="name PACKAGE:FILE"):
        auditing.tiled(table)


def test_without_triton_nothing_is_claimed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setitem(sys.modules, "triton", None)
    result = CliRunner().invoke(app, ["audit"])
    assert result.exit_code == 3
    assert "install glm5-hal[triton]" in result.stderr
    assert result.stdout == ""


def test_interpreted_kernels_are_not_audited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    result = CliRunner().invoke(app, ["audit"])
    assert result.exit_code == 3
    assert "TRITON_INTERPRET is set" in result.stderr


def test_the_tables_fit_a_terminal_of_80_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from glm5_hal.cli import audit as command

    chips = [chip for chip in targets().values() if chip.expected == "compiles"]
    monkeypatch.setattr(command.console, "is_terminal", lambda stream: True)
    monkeypatch.setattr(auditing, "compile_for", lambda kernel, target: code(target.name))
    name = "latent_attention/exact/score/bf16-selected"
    findings = [
        auditing.judge(Anything(), auditing.Case(name, "anything", "exact", chip))  # type: ignore[arg-type]
        for chip in chips
    ]
    command._print(findings, chips, "3.6.0", details=True)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["sm_", "sm_", "sm_", "sm_", "gfx", "gfx", "gfx"]
    assert lines[1].split() == ["kernel", "80", "90", "100", "120", "90a", "942", "950"]
    assert lines[2].split() == [name, *["ok"] * 7]
    rules = {line.split()[0]: line.split()[1:] for line in lines if line.startswith("AUDIT")}
    assert rules["AUDIT-SHARED-1"] == ["1"] * 7
    assert rules["AUDIT-INT8-1"] == ["–"] * 7
    assert max(map(len, lines)) <= 80


def test_what_broke_is_told_once_for_all_targets(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from glm5_hal.cli import audit as command

    chips = [targets()["sm_80"], targets()["gfx942"]]
    monkeypatch.setattr(
        auditing, "compile_for", lambda kernel, target: code(target.name, spills=SPILL_BOUND + 1)
    )
    findings = [
        auditing.judge(Anything(), auditing.Case("anything", "anything", "exact", chip))  # type: ignore[arg-type]
        for chip in chips
    ]
    command._print(findings, chips, "3.6.0", details=True)
    shown = capsys.readouterr().out
    assert "AUDIT-SPILL-1: anything on sm_80, gfx942\n    65 bytes a thread\n" in shown
    assert "0 of 2 are good" in shown
    table = [line.split() for line in shown.splitlines()]
    assert ["anything", "SPILL", "SPILL"] in table
    assert ["AUDIT-SPILL-1", "0/1", "0/1"] in table
