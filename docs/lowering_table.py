"""Writes the result in docs/lowering.md: ``python docs/lowering_table.py``.

It runs in the environment of the front end, which is none of those that the other pages need; see
`nox -s lowering`.
"""

import datetime
from collections.abc import Sequence
from pathlib import Path

from glm5_hal.conformance.audit.auditing import tiled
from glm5_hal.conformance.lowering.front_end import front_end
from glm5_hal.conformance.lowering.judging import Finding, judge_all, require
from glm5_hal.conformance.lowering.rules import RULES

PAGE = Path(__file__).with_name("lowering.md")
BEGIN, END = "<!-- generated: lowering -->\n", "<!-- end: lowering -->"


def rules(findings: Sequence[Finding]) -> list[str]:
    """Every rule, and how many kernels pass."""
    rows = ["| id | requirement | passed | broken | not judged |", "|---|---|---|---|---|"]
    for name, rule in RULES.items():
        states = [finding.rules[name].status.value for finding in findings]
        counts = " | ".join(str(states.count(s)) for s in ("passed", "broken", "not judged"))
        rows.append(f"| {name} | {rule.requirement.text} | {counts} |")
    return rows


def kernels(findings: Sequence[Finding]) -> list[str]:
    """Every kernel, and what came out."""
    rows = ["| kernel | cores | KiB alive | verdict | notes |", "|---|---|---|---|---|"]
    for found in findings:
        size = "–" if found.alive is None else f"{found.alive / 1024:.1f}"
        reason = found.reason.replace("`", "'").replace("|", "\\|")
        verdict = ", ".join(found.broken) or found.verdict.value + (f": {reason}" if reason else "")
        notes = "; ".join(found.notes)
        rows.append(f"| {found.kernel} | {found.mode or '–'} | {size} | {verdict} | {notes} |")
    return rows


def main() -> None:
    """Lower every kernel and write the page's part."""
    name, found = front_end()
    version = require(name, found)
    findings = list(judge_all(found, tiled(found.tiles)()))
    good = sum(finding.verdict.value == "ok" for finding in findings)
    head = (
        f"{version}, {found.target}, {datetime.date.today()}: of {len(findings)} kernels, {good} "
        "are lowered and break no rule. Nothing ran."
    )
    parts = [head, "", *rules(findings), "", *kernels(findings)]
    before, rest = PAGE.read_text("utf-8").split(BEGIN, 1)
    text = before + BEGIN + "\n".join(parts) + "\n" + END + rest.split(END, 1)[1]
    PAGE.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
