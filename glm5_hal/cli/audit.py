"""`glm5-hal audit`: compile every kernel for chips that are not here, and read the code."""

import json as jsons
import re
import sys
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from glm5_hal.cli import console, options
from glm5_hal.cli.failures import ExitCode
from glm5_hal.cli.outputs import output

if TYPE_CHECKING:
    from glm5_hal.conformance.audit.auditing import Case, Finding, KernelSource
    from glm5_hal.conformance.audit.targets import Target

_LINES = 3
"""Lines of code shown of each broken rule."""


def audit(
    target: Annotated[
        str | None, typer.Option(metavar="A,B", help="Targets; default: every known one.")
    ] = None,
    kernel: Annotated[
        str | None, typer.Option(metavar="A,B", help="Kernels with such names; default: all.")
    ] = None,
    tiles: Annotated[
        str,
        typer.Option(metavar="PACKAGE:FILE", help="Table of tiles, such as a backend's."),
    ] = "glm5_hal.kernels.triton:portable.yaml",
    bad: Annotated[
        bool, typer.Option("--bad", help="Prove that the rules fire, on kernels that break them.")
    ] = False,
    workers: Annotated[int, typer.Option(min=1, metavar="N", help="Processes.")] = 2,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the JSON there as well.")
    ] = None,
    json: options.Json = False,
) -> None:
    """Judge generated code without a device; exit 1 if a rule is broken.

    What it shows is static: nothing was run.
    """
    from glm5_hal.conformance.audit import auditing
    from glm5_hal.conformance.audit.targets import chosen

    targets = chosen(_split(target))
    version = auditing.require_triton()
    source = auditing.bad_kernels if bad else auditing.tiled(tiles)
    work = auditing.cases(source, targets, _split(kernel))
    with ExitStack() as stack:
        file = stack.enter_context(output(out)) if out else None
        findings = _run(source, work, workers)
        document = _document(findings, targets, version, "bad kernels" if bad else tiles)
        if file:
            file.write_text(jsons.dumps(document, indent=2) + "\n")
    if json:
        console.print_json(document)
    else:
        _print(findings, targets, version, details=not bad)
    problems = auditing.missed(findings) if bad else []
    for text in problems:
        console.fail(text)
    if bad and not problems and not json:
        typer.echo("every bad kernel breaks its own rule and no other")
    if problems or not (bad or all(finding.good for finding in findings)):
        raise typer.Exit(ExitCode.FAILED)


def _split(names: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in (names or "").split(",") if name.strip())


def _run(source: "KernelSource", work: "Sequence[Case]", workers: int) -> "list[Finding]":
    from glm5_hal.conformance.audit import auditing

    findings = []
    with console.progress("audit") as advance:
        for finding in auditing.audit(source, work, workers):
            findings.append(finding)
            if advance:
                advance(len(findings), len(work))
    return findings


def _document(
    findings: "Sequence[Finding]", targets: "Sequence[Target]", version: str, what: str
) -> dict[str, object]:
    """Everything, as plain data: kernels x targets x rules."""
    from glm5_hal.conformance.audit.rules import RULES
    from glm5_hal.conformance.static_seal import KERNELS, sealed, table_file

    taken = {f.target for f in findings if f.verdict.value not in ("refused", "not taken")}
    document = {
        "evidence": "static",
        "triton": version,
        "kernels": what,
        "rules": {name: rule.requirement.text for name, rule in RULES.items()},
        "targets": {t.name: {**vars(t), "taken": t.name in taken} for t in targets},
        "findings": [finding.to_dict() for finding in findings],
    }
    return sealed(document, (KERNELS, table_file(what)))


def _print(
    findings: "Sequence[Finding]", targets: "Sequence[Target]", version: str, details: bool
) -> None:
    judged = {f.target for f in findings if f.verdict.value != "not taken"}
    shown = [t.name for t in targets if t.name in judged]
    if shown:
        _print_kernels(findings, shown)
        _print_rules(findings, shown)
    typer.echo("")
    _print_refusals(findings, targets, version)
    if details:
        _print_details(findings)
        seen = [f for f in findings if f.target in judged]
        good = sum(f.good for f in seen)
        typer.echo(f"{good} of {len(seen)} are good")
    typer.echo(f"static, Triton {version}: code was compiled and read, nothing was run")


def _print_kernels(findings: "Iterable[Finding]", targets: Sequence[str]) -> None:
    rows: dict[str, dict[str, str]] = {}
    for finding in findings:
        rows.setdefault(finding.kernel, {})[finding.target] = _cell(finding)
    table = [(name, *(cells.get(t, "–") for t in targets)) for name, cells in rows.items()]
    _print_matrix("kernel", targets, table)


def _print_matrix(corner: str, targets: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table with a column a target, as narrow as it can be, for a terminal has 80 columns."""
    heads: list[Sequence[str]] = [("", *targets)]
    if console.is_terminal(sys.stdout):  # sm_90 in two lines: names of targets are wider than cells
        halves = [re.split(r"(?=\d)", target, maxsplit=1) for target in targets]
        heads = [("", *(half[0] for half in halves)), ("", *("".join(h[1:]) for h in halves))]
    heads[-1] = (corner, *heads[-1][1:])
    widths = [max(map(len, column)) for column in zip(*heads, *rows, strict=True)]
    for row in (*heads, *rows):
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        typer.echo("  ".join(cells).rstrip())


def _cell(finding: "Finding") -> str:
    short = (rule.removeprefix("AUDIT-").removesuffix("-1") for rule in finding.broken)
    return " ".join(short) or finding.verdict.value


def _print_rules(findings: "Sequence[Finding]", targets: Sequence[str]) -> None:
    from glm5_hal.conformance.audit.rules import RULES

    count = len({f.kernel for f in findings})
    typer.echo(
        f"\nhow many of {count} kernels pass; a/b: of b that the rule is about; ?: not judged"
    )
    rows = [
        (name, *(_passes([f for f in findings if f.target == t], name) for t in targets))
        for name in RULES
    ]
    _print_matrix("rule", targets, rows)


def _passes(findings: "Sequence[Finding]", rule: str) -> str:
    """Passed of judged; one number where these are the same, ? for those not judged."""
    states = [finding.rules[rule].status.value for finding in findings]
    passed, broken = states.count("passed"), states.count("broken")
    unseen = f" {states.count('not judged')}?" if "not judged" in states else ""
    return (f"{passed}/{passed + broken}" if broken else str(passed or "–")) + unseen


def _print_details(findings: "Iterable[Finding]") -> None:
    """What broke, once for all targets where the same broke."""
    broken: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        for rule in finding.broken:
            broken.setdefault((rule, finding.kernel), []).append(finding)
        if finding.verdict.value in ("refused", "taken"):
            typer.echo(f"{finding.verdict.value}: {finding.kernel} on {finding.target}")
            typer.echo(f"    {finding.reason or 'targets.yaml says that it is not taken'}")
    for (rule, kernel), found in broken.items():
        lines = found[0].broken[rule]
        typer.echo(f"{rule}: {kernel} on {', '.join(f.target for f in found)}")
        for line in lines[:_LINES]:
            typer.echo(f"    {line}")
        if len(lines) > _LINES:
            typer.echo(f"    and {len(lines) - _LINES} more")


def _print_refusals(
    findings: "Sequence[Finding]", targets: "Sequence[Target]", version: str
) -> None:
    """The targets that the installed compiler does not take, as was known."""
    reasons = {f.target: f.reason for f in findings if f.verdict.value == "not taken"}
    families: dict[tuple[str, str], list[str]] = {}
    for target in targets:
        if target.name in reasons:
            families.setdefault((target.chips, reasons[target.name]), []).append(target.name)
    for (chips, reason), names in families.items():
        typer.echo(f"Triton {version} does not take {', '.join(names)} ({chips}): {reason}")
