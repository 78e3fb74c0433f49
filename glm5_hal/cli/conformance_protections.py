"""`glm5-hal conformance protections`: what keeps a backend right, taken away."""

from typing import TYPE_CHECKING, Any

import typer

from glm5_hal.cli import console, options
from glm5_hal.cli.failures import CommandError, ExitCode
from glm5_hal.plan import resolve

if TYPE_CHECKING:
    from glm5_hal.conformance.simulated.protections import Finding


def protections(backend: options.Backend = None, json: options.Json = False) -> None:
    """Take a backend's protections away, one at a time, on its simulated device.

    Each must be missed by the requirement that it serves; exit 1 if one is not, or if the
    requirement fails with it. Needs GLM5_HAL_SIMULATED=1: shows nothing about a chip.
    """
    plan, _ = resolve(backend)
    if not plan.simulated:
        raise CommandError(
            f"backend {plan.backend!r} is not on a simulated device: set GLM5_HAL_SIMULATED=1"
        )
    from glm5_hal.conformance.simulated.protections import examine

    found = []
    for finding in examine(plan.backend):
        found.append(finding)
        if not json:
            console.note(f"{finding.protection.name}: {_verdict(finding)}")
    if json:
        console.print_json({"backend": plan.backend, "protections": list(map(_record, found))})
    else:
        console.print_table(
            ("protection", "against", "requirement", "cases", "without it"),
            [_row(finding) for finding in found],
        )
    if not all(finding.good for finding in found):
        raise typer.Exit(ExitCode.FAILED)


def _row(finding: "Finding") -> tuple[str, ...]:
    meant = finding.protection
    return (meant.name, meant.against, meant.requirement, str(finding.cases), _verdict(finding))


def _verdict(finding: "Finding") -> str:
    if finding.broken:
        return f"fails with it: {finding.broken[0]}"
    return f"{len(finding.caught)} fail" if finding.caught else "nothing fails"


def _record(finding: "Finding") -> dict[str, Any]:
    meant = finding.protection
    return {
        "protection": meant.name,
        "against": meant.against,
        "numerics": meant.numerics.value,
        "op": meant.op,
        "requirement": meant.requirement,
        "cases": finding.cases,
        "broken": list(finding.broken),
        "caught": list(finding.caught),
        "good": finding.good,
    }
