"""triton-ascend's front end: what it takes of the kernels, and what the rules say of bad ones."""

import json
from pathlib import Path

import pytest

pytest.importorskip("triton.backends.ascend", reason="triton-ascend is not installed")

from typer.testing import CliRunner

from glm5_hal.backends.ascend.lowering import FRONT_END
from glm5_hal.cli import app
from glm5_hal.conformance.audit.auditing import tiled
from glm5_hal.conformance.lowering.bad import BAD
from glm5_hal.conformance.lowering.front_end import read_restrictions
from glm5_hal.conformance.lowering.judging import Verdict, judge, judge_all, missed
from glm5_hal.conformance.lowering.rules import RULES

LIMITS = read_restrictions(FRONT_END.restrictions)


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.name)
def test_a_bad_kernel_breaks_its_rule(bad: object) -> None:
    assert not missed([judge(FRONT_END, bad, LIMITS)])  # type: ignore[arg-type]


def test_every_rule_is_broken_by_a_bad_kernel() -> None:
    # the converter widens no int8 product, whatever is asked for; test_lowering_rules has that rule
    assert set(RULES) - {bad.breaks for bad in BAD} == {"LOWER-INT8-1"}


def test_a_kernel_that_breaks_nothing_is_missed() -> None:
    bad = next(bad for bad in BAD if bad.name == "bad.divided")
    good = next(k for k in tiled(FRONT_END.tiles)() if k.op == "embedding")
    found = judge(FRONT_END, good, LIMITS)
    assert found.verdict is Verdict.CLEAN
    renamed = type(found)(bad.name, "none", "exact", found.verdict, found.rules)
    assert missed([renamed]) == ["bad.divided should break LOWER-DIVIDE-1; found: nothing"]


@pytest.mark.slow
def test_every_kernel_is_taken() -> None:
    found = list(judge_all(FRONT_END, tiled(FRONT_END.tiles)()))
    assert not {f.kernel: f.reason or f.broken for f in found if f.verdict is not Verdict.CLEAN}


def test_the_command_writes_what_it_found(tmp_path: Path) -> None:
    out = tmp_path / "found.json"
    result = CliRunner().invoke(app, ["lowering", "--kernel", "embedding", "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert "2 of 2 are lowered, 2 break no rule" in result.stdout
    document = json.loads(out.read_text("utf-8"))
    assert document["evidence"] == "static"
    assert document["compiler"].startswith("triton-ascend ")
    assert [f["verdict"] for f in document["findings"]] == ["ok", "ok"]
    assert set(document["findings"][0]["rules"]) == set(RULES) == set(document["rules"])


def test_the_command_fails_where_a_kernel_is_refused_or_broken() -> None:
    result = CliRunner().invoke(app, ["lowering", "--bad", "--kernel", "copied,no_such"])
    assert result.exit_code == 2, result.output
    result = CliRunner().invoke(app, ["lowering", "--bad", "--kernel", "divided,eighth", "--json"])
    assert result.exit_code == 0, result.output
    verdicts = [f["verdict"] for f in json.loads(result.stdout)["findings"]]
    assert sorted(verdicts) == ["broken", "refused"]
