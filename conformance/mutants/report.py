"""What a mutation run leaves behind, and its plain data."""

import enum
from dataclasses import dataclass

from glm5_hal.conformance.case import Result


class Outcome(enum.Enum):
    """What became of a mutant."""

    KILLED = "killed"
    """Its own requirement found it."""
    MISSED = "missed"
    """Other requirements found it, its own did not."""
    SURVIVED = "survived"
    """Nothing found it."""


@dataclass(frozen=True)
class Finding:
    """A mutant and what the suite found.

    Attributes:
        mutant: its name.
        requirement: the id that is meant to find it.
        story: where such a fault occurs.
        ops: ops that it changes.
        cases: number of cases judged.
        failures: results of the cases that failed, in the order of the catalogue.
        seconds: time taken.
    """

    mutant: str
    requirement: str
    story: str
    ops: tuple[str, ...]
    cases: int
    failures: tuple[Result, ...]
    seconds: float

    @property
    def outcome(self) -> Outcome:
        """What became of it."""
        if self.own is not None:
            return Outcome.KILLED
        return Outcome.MISSED if self.failures else Outcome.SURVIVED

    @property
    def own(self) -> Result | None:
        """First failure of its own requirement."""
        return next((r for r in self.failures if r.requirement == self.requirement), None)

    @property
    def also(self) -> tuple[str, ...]:
        """Other requirements that found it."""
        found = dict.fromkeys(r.requirement for r in self.failures)
        return tuple(name for name in found if name != self.requirement)


@dataclass(frozen=True)
class MutationReport:
    """A mutation run.

    Attributes:
        findings: one a mutant, in the order of the catalogue.
        control_cases: cases judged on the backend without a fault.
        control_failures: those of them that failed: then no kill means anything.
        seconds: time taken.
    """

    findings: tuple[Finding, ...]
    control_cases: int
    control_failures: tuple[Result, ...]
    seconds: float

    @property
    def killed(self) -> int:
        """Number of mutants that their own requirement found."""
        return sum(finding.outcome is Outcome.KILLED for finding in self.findings)

    @property
    def problems(self) -> list[str]:
        """Why the run has failed, in sentences; empty when it has passed."""
        said = [
            f"{f.mutant} {f.outcome.value}: {f.requirement} did not find it"
            for f in self.findings
            if f.outcome is not Outcome.KILLED
        ]
        said += [
            f"the backend without a fault fails {result.id}: {result.message}"
            for result in self.control_failures
        ]
        if not self.findings:
            said.append("no mutant ran")
        return said

    @property
    def ok(self) -> bool:
        """Whether every mutant was found by its own requirement, and nothing else was found."""
        return not self.problems


def summary(report: MutationReport) -> dict[str, object]:
    """Plain data, for JSON and tables."""
    return {
        "ok": report.ok,
        "killed": report.killed,
        "mutants": len(report.findings),
        "seconds": report.seconds,
        "control": {
            "cases": report.control_cases,
            "failures": [_failure(result) for result in report.control_failures],
        },
        "findings": [_finding(finding) for finding in report.findings],
        "problems": report.problems,
    }


def _finding(finding: Finding) -> dict[str, object]:
    return {
        "mutant": finding.mutant,
        "requirement": finding.requirement,
        "story": finding.story,
        "ops": list(finding.ops),
        "outcome": finding.outcome.value,
        "cases": finding.cases,
        "failed": len(finding.failures),
        "found": _failure(finding.own) if finding.own else None,
        "also": list(finding.also),
        "seconds": finding.seconds,
    }


def _failure(result: Result) -> dict[str, object]:
    return {
        "case": result.id,
        "message": result.message,
        "change": result.change,
        "difference": result.difference,
        "hint": result.hint,
    }
