"""`glm5-hal audit`: compile every kernel for chips that are not here, and read the code."""

from typing import TYPE_CHECKING, Annotated

import typer

from glm5_hal.cli import console, options
from glm5_hal.cli.failures import ExitCode

if TYPE_CHECKING:
    from glm5_hal.conformance.audit.auditing import Finding

_LINES = 3
"""Lines of code shown of each broken rule."""


def audit(
    target: Annotated[
        str | None, typer.Option(metavar="A,B", help="Targets; default: every known one.")
    ] = None,
    kernel: Annotated[
        str | None, typer.Option(metavar="A,B", help="Kernels with such names; default: all.")
    ] = None,
    bad: Annotated[
        bool, typer.Option("--bad", help="Prove that the rules fire, on kernels that break them.")
    ] = False,
    workers: Annotated[int, typer.Option(min=1, metavar="N", help="Processes.")] = 2,
    json: options.Json = False,
) -> None:
    """Judge generated code without a device; exit 1 if a rule is broken.

    What it shows is static: nothing was run.
    """
    from glm5_hal.conformance.audit import auditing
    from glm5_hal.conformance.audit.rules import RULES
    from glm5_hal.conformance.audit.targets import chosen

    if bad:
        _prove(workers)
        return
    version = auditing.require_triton()
    targets = chosen(_split(target))
    findings = []
    for finding in auditing.audit(auditing.own_kernels, targets, _split(kernel), workers):
        findings.append(finding)
        if not finding.good:
            console.note(f"{finding.verdict.value}: {finding.kernel} on {finding.target}")
    if json:
        console.print_json(
            {
                "triton": version,
                "rules": {name: rule.requirement.text for name, rule in RULES.items()},
                "findings": [finding.to_dict() for finding in findings],
            }
        )
    else:
        _print(findings, [t.name for t in targets], version)
    if not all(finding.good for finding in findings):
        raise typer.Exit(ExitCode.FAILED)


def _prove(workers: int) -> None:
    from glm5_hal.conformance.audit import auditing

    missed = auditing.missed(workers)
    for text in missed:
        console.fail(text)
    if missed:
        raise typer.Exit(ExitCode.FAILED)
    typer.echo("every rule finds the kernels that break it")


def _split(names: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in (names or "").split(",") if name.strip())


def _print(findings: "list[Finding]", targets: list[str], version: str) -> None:
    cells = {(f.kernel, f.target): f for f in findings}
    kernels = list(dict.fromkeys(f.kernel for f in findings))
    console.print_table(
        ("kernel", *targets),
        [(name, *(_cell(cells[name, t]) for t in targets)) for name in kernels],
    )
    for finding in findings:
        for rule, lines in finding.broken.items():
            typer.echo(f"\n{rule}: {finding.kernel} on {finding.target}")
            for line in lines[:_LINES]:
                typer.echo(f"    {line}")
            if len(lines) > _LINES:
                typer.echo(f"    and {len(lines) - _LINES} more")
        if finding.verdict.value in ("refused", "taken"):
            typer.echo(f"\n{finding.verdict.value}: {finding.kernel} on {finding.target}")
            typer.echo(f"    {finding.reason or 'targets.yaml says that it is not taken'}")
    good = sum(finding.good for finding in findings)
    typer.echo(f"\nstatic, Triton {version}: {good} of {len(findings)} good")


def _cell(finding: "Finding") -> str:
    short = (rule.removeprefix("AUDIT-").removesuffix("-1") for rule in finding.broken)
    return " ".join(short) or finding.verdict.value
