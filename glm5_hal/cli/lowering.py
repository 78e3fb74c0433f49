"""`glm5-hal lowering`: what a vendor's own Triton front end makes of every kernel."""

import json as jsons
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from glm5_hal.cli import console, options
from glm5_hal.cli.failures import ExitCode
from glm5_hal.cli.outputs import output

if TYPE_CHECKING:
    from glm5_hal.conformance.audit.compiler import Kernel
    from glm5_hal.conformance.lowering.front_end import FrontEnd
    from glm5_hal.conformance.lowering.judging import Finding

_LINES = 3
"""Lines of code shown of each broken rule."""


def lowering(
    front_end: Annotated[
        str | None, typer.Option(metavar="NAME", help="Front end; default: the one there is.")
    ] = None,
    kernel: Annotated[
        str | None, typer.Option(metavar="A,B", help="Kernels with such names; default: all.")
    ] = None,
    bad: Annotated[
        bool, typer.Option("--bad", help="Prove that the rules fire, on kernels that break them.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the JSON there as well.")
    ] = None,
    json: options.Json = False,
) -> None:
    """Lower kernels with a vendor's own compiler, no device; exit 1 if one is refused or broken.

    What it shows is static: nothing was run.
    """
    from glm5_hal.conformance.audit.auditing import tiled
    from glm5_hal.conformance.lowering import front_end as seam
    from glm5_hal.conformance.lowering import judging

    name, found = seam.front_end(front_end or "")
    version = judging.require(name, found)
    parts = [part.strip() for part in (kernel or "").split(",") if part.strip()]
    source = judging.bad_kernels if bad else tiled(found.tiles)
    work = judging.chosen(source, parts)
    with ExitStack() as stack:
        file = stack.enter_context(output(out)) if out else None
        findings = _run(found, work)
        document = _document(found, version, findings, "bad kernels" if bad else found.tiles)
        if file:
            file.write_text(jsons.dumps(document, indent=2) + "\n")
    if json:
        console.print_json(document)
    else:
        _print(findings, f"{version}, {found.target}", details=not bad)
    problems = judging.missed(findings) if bad else []
    for text in problems:
        console.fail(text)
    if bad and not problems and not json:
        typer.echo("every bad kernel breaks its own rule, or is refused where it must be")
    if problems or not (bad or all(f.verdict is judging.Verdict.CLEAN for f in findings)):
        raise typer.Exit(ExitCode.FAILED)


def _run(front_end: "FrontEnd", work: "Sequence[Kernel]") -> "list[Finding]":
    from glm5_hal.conformance.lowering.judging import judge_all

    findings = []
    with console.progress("lowering") as advance:
        for finding in judge_all(front_end, work):
            findings.append(finding)
            if advance:
                advance(len(findings), len(work))
    return findings


def _document(
    front_end: "FrontEnd", version: str, findings: "Sequence[Finding]", what: str
) -> dict[str, object]:
    """Everything, as plain data: kernels x rules."""
    from glm5_hal.conformance.lowering.front_end import read_restrictions
    from glm5_hal.conformance.lowering.rules import RULES
    from glm5_hal.conformance.static_seal import KERNELS, sealed, table_file

    document = {
        "evidence": "static",
        "compiler": version,
        "target": front_end.target,
        "kernels": what,
        "restrictions": vars(read_restrictions(front_end.restrictions)),
        "rules": {name: rule.requirement.text for name, rule in RULES.items()},
        "findings": [finding.to_dict() for finding in findings],
    }
    return sealed(document, (KERNELS, *map(table_file, (what, front_end.restrictions))))


def _print(findings: "Sequence[Finding]", made_by: str, details: bool) -> None:
    from glm5_hal.conformance.lowering.rules import RULES

    columns = ("kernel", "cores", "KiB", "verdict", "notes")
    console.print_table(columns, [_row(f) for f in findings], right=("KiB",))
    typer.echo("")
    states = [(name, [f.rules[name].status.value for f in findings]) for name in RULES]
    states_of = ("passed", "broken", "not judged", "does not apply")
    counts = [(name, *(str(found.count(c) or "–") for c in states_of)) for name, found in states]
    console.print_table(("rule", *states_of), counts, right=states_of)
    typer.echo("")
    if details:
        _print_details(findings)
        good = sum(f.verdict.value == "ok" for f in findings)
        taken = sum(f.verdict.value != "refused" for f in findings)
        typer.echo(f"{taken} of {len(findings)} are lowered, {good} break no rule")
    typer.echo(f"static, {made_by}: code was lowered and read, nothing was run")


def _row(finding: "Finding") -> tuple[str, ...]:
    size = "–" if finding.alive is None else f"{finding.alive / 1024:.1f}"
    said = _verdict(finding), "; ".join(finding.notes)
    return (finding.kernel, finding.mode or "–", size, *said)


def _verdict(finding: "Finding") -> str:
    short = (rule.removeprefix("LOWER-").removesuffix("-1") for rule in finding.broken)
    return " ".join(short) or finding.verdict.value


def _print_details(findings: "Sequence[Finding]") -> None:
    """What broke, and whatever was refused or not judged, each once for all of its kernels."""
    said: dict[str, list[str]] = {}
    for finding in findings:
        if finding.reason:
            said.setdefault(f"refused: {finding.reason}", []).append(finding.kernel)
            continue
        for rule, judged in finding.rules.items():
            if judged.status.value == "not judged":
                said.setdefault(f"{rule} not judged: {judged.why}", []).append(finding.kernel)
    for text, kernels in said.items():
        typer.echo(f"{text}\n    {', '.join(kernels)}")
    for finding in findings:
        for rule, lines in finding.broken.items():
            typer.echo(f"{rule}: {finding.kernel}")
            for line in lines[:_LINES]:
                typer.echo(f"    {line}")
            if len(lines) > _LINES:
                typer.echo(f"    and {len(lines) - _LINES} more")
