"""What `glm5-hal bisect` prints: the call at fault in three lines, then everything that differs."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from glm5_hal.cli import console

if TYPE_CHECKING:
    from glm5_hal.conformance.bisect.casefile import CaseFile
    from glm5_hal.conformance.bisect.explaining import Explanation, Reason, Verdict
    from glm5_hal.conformance.bisect.findings import Finding, Findings, Row
    from glm5_hal.conformance.bisect.matching import Matches
    from glm5_hal.conformance.bisect.replaying import Replayed
    from glm5_hal.conformance.bisect.running import Bisection
    from glm5_hal.conformance.compare import Difference

Names = tuple[str, str]
"""The judged backend and the other one."""

_LABEL = 8


def line(label: str, text: str, colour: str | None = None) -> None:
    """A labelled line on stdout; further lines of the text stand below its first."""
    first, *rest = text.splitlines() or [""]
    head = f"{label:<{_LABEL}}"
    if console.is_terminal(sys.stdout):
        head = typer.style(head, fg=colour, bold=True)
    typer.echo(f"{head}  {first}")
    for more in rest:
        typer.echo(" " * (_LABEL + 2) + more)


def show(found: "Bisection", names: Names, path: Path | None) -> None:
    """A bisection in the exact profile."""
    guilty = found.findings.guilty
    if guilty is not None and found.explanation is not None:
        _show_guilty(guilty, found.explanation, found.findings, names)
        _show_more(guilty, found, names, path)
        typer.echo()
        _table(found.findings)
        return
    if found.own is not None:
        _show_own(found.own, found.findings, names)
        return
    count = len(found.findings.calls)
    missing = len(found.findings.broken)
    line("unjudged", f"{missing} of {count} op calls; of the others none differs", "yellow")
    typer.echo()
    _table(found.findings)


def _show_guilty(guilty: "Finding", why: "Explanation", findings: "Findings", names: Names) -> None:
    """Which call, which bits, which requirement."""
    bad = sum(findings.counts(finding) for finding in findings.broken)
    named = [name for name in guilty.weights if name != guilty.site.op]
    weights = f" ({', '.join(named)})" if named else ""
    rest = "is wrong" if bad == 1 else "are wrong, this is the first"
    share = f"{bad} of {len(findings.calls)} op calls {rest}"
    line("guilty", f"{guilty.site.name}{weights} on {names[0]}; {share}", "red")
    if guilty.difference is not None:
        line("bits", bits(guilty.difference, names))
    else:
        line(guilty.what.value.split()[0], guilty.message)
    line("breaks", breaks(why.reason))


def bits(difference: "Difference", names: Names) -> str:
    """Both bit patterns and values, where, and how many."""
    judged, right = names if names[0] != names[1] else (f"{names[0]} (judged)", names[1])
    if not difference.index:
        form = f"output {difference.output}: {right} gives {difference.expected}"
        return f"{form}, {judged} {difference.found}"
    place = f"output {difference.output} at {list(difference.index)}"
    apart = "" if difference.ulp is None else f", {difference.ulp:,} ULP apart"
    share = f"{difference.differing:,} of {difference.total:,} elements"
    return f"{place}: {right} {difference.expected}, {judged} {difference.found}{apart}; {share}"


def breaks(reason: "Reason") -> str:
    """The requirement, or what it may be."""
    if not reason.requirements:
        return reason.text
    return f"{' or '.join(reason.requirements)}: {reason.text}"


def requirement(reason: "Reason") -> None:
    """The sentences of the requirements."""
    from glm5_hal.requirements import REQUIREMENTS

    for key in reason.requirements:
        line("requires", f"{key}: {REQUIREMENTS[key].text}")


def _show_more(guilty: "Finding", found: "Bisection", names: Names, path: Path | None) -> None:
    why = found.explanation
    assert why is not None
    typer.echo()
    requirement(why.reason)
    if why.difference is not None and why.difference.note:
        line("pattern", why.difference.note)
    if parts := parts_remark(guilty, found.findings):
        line("parts", parts)
    if why.verdict is not None:
        line("verdict", verdict(why.verdict, names))
    if path is not None:
        line("alone", f"{size(why)}:\nglm5-hal bisect --replay {path} --backend {names[0]}")


def verdict(given: "Verdict", names: Names) -> str:
    """What the definition says."""
    judged, right = names
    return {
        "expected": f"the definition of the op gives {right}'s bytes",
        "found": f"the definition of the op gives {judged}'s bytes: {right} is at fault",
        "neither": "the definition of the op gives other bytes than both: each is at fault",
    }[given.value]


def size(why: "Explanation") -> str:
    """How small the case is."""
    if not why.of or why.rows == why.of:
        return "the whole call shows it"
    unit = "row" if why.call.op == "grouped_linear" else "token"
    return f"{why.rows} of {why.of} {unit}s {'is' if why.rows == 1 else 'are'} enough"


def parts_remark(guilty: "Finding", findings: "Findings") -> str:
    """How a composite at fault stands to its parts, or a part to its composite."""
    judged = findings.judged_parts(guilty)
    if judged:
        broken = list(dict.fromkeys(f.site.op for f in findings.parts_of(guilty)))
        if not broken:
            cause = (
                f"the kernel of {guilty.site.op} is at fault"
                if guilty.own == "native"
                else "it is what stands between them, or what they keep from call to call"
            )
            return f"{', '.join(judged)} agree when they are called on their own: {cause}"
        return f"{', '.join(broken)} differs as well when it is called on its own"
    if guilty.site.within:
        reached = any(f.site.name == guilty.site.within for f in findings.broken)
        end = "differs with it" if reached else "agrees all the same: the fault does not reach it"
        return f"part of {guilty.site.within.split('/')[-1]}, which {end}"
    return ""


def _table(findings: "Findings") -> None:
    typer.echo("every call that is wrong, each with identical inputs:")
    columns = ("place", "op", "calls", "first", "at", "ULP", "elements", "")
    console.print_table(columns, [_row(row) for row in findings.rows()], right=("ULP", "elements"))


def _row(row: "Row") -> tuple[str, ...]:
    first = row.found[0]
    calls, number = f"{len(row.found)} of {row.calls}", f"#{first.site.number}"
    if first.site.step:
        number += f" of pass {first.site.step}"
    difference = first.difference
    if difference is None:
        return (row.place, row.path, calls, number, "", "", "", row.remark or first.message)
    at = f"{difference.output}{list(difference.index)}" if difference.index else "shape or dtype"
    apart = "" if difference.ulp is None else f"{difference.ulp:,}"
    share = f"{difference.differing:,}/{difference.total:,}" if difference.total else ""
    remark = row.remark or difference.note.partition(":")[0]
    return (row.place, row.path, calls, number, at, apart, share, remark)


def _show_own(own: "Matches", findings: "Findings", names: Names) -> None:
    count = len(findings.calls)
    guilty = own.guilty or own.foundling
    if guilty is None:
        line(
            "same",
            f"{names[0]} answers all {count} op calls of this run as {names[1]} does",
            "green",
        )
        line("own run", "its own run of the model gives the same bytes, call by call")
        return
    line("guilty", f"{guilty.site.name} in a run of {names[0]}'s own", "red")
    line("bits", f"{guilty.verdict.value}; asked alone, each of {count} calls agrees")
    line("breaks", "RUN-1, GUARD-1 or GUARD-2: it depends on more than its inputs")
    typer.echo()
    text = (
        "something is kept from call to call (a table uploaded once, a buffer reused for results, "
        "a result cached), an input is changed, or runs race; the suite's cases of RUN and GUARD "
        "judge that"
    )
    line("pattern", text)
    suite = f"glm5-hal conformance run --backend {names[0]} --numerics exact --ops {guilty.site.op}"
    line("suite", suite)


# --- replay ---


def show_replay(case: "CaseFile", outcome: "Replayed") -> None:
    """A case that was asked again."""
    judged = outcome.backend
    if not outcome.differs:
        line("same", f"{case.site} on {judged}: the expected bytes", "green")
        return
    again = " as it did when it was found" if outcome.as_found else ""
    line("guilty", f"{case.site} on {judged}: it differs{again}", "red")
    if outcome.difference is not None:
        line("bits", bits(outcome.difference, (judged, "expected")))
    else:
        line("raised", outcome.message)
    line("breaks", " or ".join(case.requirements) or "no rule tells")


def replay_document(case: "CaseFile", outcome: "Replayed") -> dict[str, Any]:
    """The same as plain data."""
    return {
        "site": case.site,
        "op": case.call.op,
        "backend": outcome.backend,
        "differs": outcome.differs,
        "as_found": outcome.as_found,
        "difference": difference_document(outcome.difference),
        "message": outcome.message,
        "requirements": list(case.requirements),
    }


# --- JSON ---


def document(found: "Bisection", names: Names, path: Path | None) -> dict[str, Any]:
    """A bisection as plain data."""
    guilty = found.findings.guilty
    return {
        "backend": names[0],
        "against": names[1],
        "differs": found.differs,
        "calls": len(found.findings.calls),
        "guilty": _guilty_document(guilty, found, path),
        "differing": [finding_document(f, found.findings) for f in found.findings.broken],
        "own_run": _own_document(found.own),
    }


def _guilty_document(
    guilty: "Finding | None", found: "Bisection", path: Path | None
) -> dict[str, Any] | None:
    why = found.explanation
    if guilty is None or why is None:
        return None
    return {
        **finding_document(guilty, found.findings),
        "requirements": list(why.reason.requirements),
        "reason": why.reason.text,
        "parts": parts_remark(guilty, found.findings),
        "definition": None if why.verdict is None else why.verdict.value,
        "rows": why.rows,
        "of_rows": why.of,
        "smallest": difference_document(why.difference),
        "case": None if path is None else str(path),
    }


def finding_document(finding: "Finding", findings: "Findings") -> dict[str, Any]:
    """A finding as plain data."""
    site = finding.site
    return {
        "site": site.name,
        "place": site.place,
        "op": site.op,
        "within": site.within,
        "pass": site.step,
        "number": site.number,
        "what": finding.what.value,
        "weights": list(finding.weights),
        "counts": findings.counts(finding),
        "difference": difference_document(finding.difference),
        "message": finding.message,
    }


def difference_document(difference: "Difference | None") -> dict[str, Any] | None:
    """A difference as plain data."""
    if difference is None:
        return None
    return {**asdict(difference), "index": list(difference.index)}


def _own_document(own: "Matches | None") -> dict[str, Any] | None:
    if own is None:
        return None
    guilty = own.guilty or own.foundling
    return {
        "same": guilty is None,
        "first": None if guilty is None else guilty.site.name,
        "verdict": None if guilty is None else guilty.verdict.value,
    }
