"""`glm5-hal bisect --trace A --trace B`: two machines' runs, from their traces."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from glm5_hal.cli import bisect_shown, console
from glm5_hal.cli.bisect_shown import line
from glm5_hal.cli.failures import CommandError, ExitCode

if TYPE_CHECKING:
    from glm5_hal.conformance.bisect.explaining import Explanation
    from glm5_hal.conformance.bisect.matching import Match, Matches
    from glm5_hal.conformance.bisect.tracefile import Trace


def compare(paths: Sequence[Path], out: Path, json: bool) -> None:
    """Compare two traces; ends with 1 if they differ."""
    from glm5_hal.conformance.bisect import tracefile
    from glm5_hal.conformance.bisect.matching import match

    if len(paths) != 2:
        raise CommandError(
            f"--trace is given {len(paths)} times, expected twice: the trace to judge, then the "
            "one that is taken to be right"
        )
    judged, right = (tracefile.read(path) for path in paths)
    tracefile.check_pair(judged, right)
    matches = match(judged.calls, right.calls)
    guilty = matches.guilty
    why = _explained(judged, right, guilty) if guilty is not None else None
    path = _write(judged, right, guilty, why, out) if guilty is not None and why else None
    if json:
        console.print_json(_document(judged, right, matches, why, path))
    else:
        _show(judged, right, matches, why, path)
    if guilty is not None or matches.foundling is not None:
        raise typer.Exit(ExitCode.FAILED)


def _names(judged: "Trace", right: "Trace") -> bisect_shown.Names:
    mine, theirs = (t.origin.backend.removesuffix(":0") for t in (judged, right))
    return mine, theirs


def _explained(judged: "Trace", right: "Trace", guilty: "Match") -> "Explanation | None":
    from glm5_hal.conformance.bisect.explaining import of_answers

    name = guilty.site.name
    if name not in judged.kept or name not in right.kept or judged.origin.numerics != "exact":
        return None
    call, expected = right.kept[name]
    return of_answers(call, expected, judged.kept[name][1])


def _write(judged: "Trace", right: "Trace", guilty: "Match", why: "Explanation", out: Path) -> Path:
    from glm5_hal.cli.bisect import write_case
    from glm5_hal.conformance.bisect.casefile import CaseFile

    case = CaseFile(
        call=why.call,
        expected=why.expected,
        found=why.found,
        numerics=judged.origin.numerics,
        place=guilty.site.place,
        site=guilty.site.name,
        backends=_names(judged, right),
        requirements=why.reason.requirements,
    )
    return write_case(case, out)


def _show(
    judged: "Trace",
    right: "Trace",
    matches: "Matches",
    why: "Explanation | None",
    path: Path | None,
) -> None:
    names, count = _names(judged, right), len(matches.all)
    guilty = matches.guilty
    if guilty is None and matches.foundling is None:
        line(
            "same", f"all {count} op calls: {names[0]} and {names[1]} gave the same bytes", "green"
        )
        _show_parts(matches, names)
        return
    if guilty is None:
        _show_foundling(matches, names)
        return
    place = [match.site.name for match in matches.all].index(guilty.site.name)
    first = f"the first of {count} op calls whose inputs agree and outputs differ (number {place})"
    line("guilty", f"{guilty.site.name} on {names[0]}: {first}", "red")
    if why is not None and why.difference is not None:
        line("bits", bisect_shown.bits(why.difference, names))
        line("breaks", bisect_shown.breaks(why.reason))
        typer.echo()
        bisect_shown.requirement(why.reason)
        if why.verdict is not None:
            line("verdict", bisect_shown.verdict(why.verdict, names))
        alone = f"glm5-hal bisect --replay {path} --backend {names[0]}"
        line("alone", f"{bisect_shown.size(why)}:\n{alone}")
    else:
        line("prints", "; ".join(_prints(guilty, number, names) for number in guilty.outputs))
        commands = [_next(trace, guilty.site.name) for trace in (judged, right)]
        line("next", "keep this call whole, one on each machine, and compare again:")
        for command in commands:
            typer.echo(" " * 10 + command)
    typer.echo()
    _table(matches)
    _show_parts(matches, names)


def _prints(guilty: "Match", number: int, names: bisect_shown.Names) -> str:
    pairs = zip(names, (guilty.judged, guilty.against), strict=True)
    shown = [
        f"{name} {call.gave[number] if number < len(call.gave) else 'nothing'}"
        for name, call in pairs
    ]
    return f"output {number}: {', '.join(shown)}"


def _next(trace: "Trace", name: str) -> str:
    return f"{trace.origin.command} --tensors {shlex.quote(name)}"


def _show_foundling(matches: "Matches", names: bisect_shown.Names) -> None:
    found = matches.foundling
    assert found is not None
    which = ", ".join(found.inputs)
    line("guilty", f"what stands in front of {found.site.name} on {names[0]}", "red")
    line("inputs", f"{which} differ, and no op call before it is at fault")
    line("breaks", "GUARD-1 or GUARD-2: an op changed an input, or what it had returned")
    typer.echo()
    _table(matches)


def _table(matches: "Matches") -> None:
    from glm5_hal.conformance.bisect.matching import Verdict

    groups: dict[tuple[str, str, Verdict], list[Match]] = {}
    for match in matches.all:
        if match.verdict is not Verdict.SAME:
            key = (match.site.place, match.site.path, match.verdict)
            groups.setdefault(key, []).append(match)
    at_fault = {key: found for key, found in groups.items() if key[2] is Verdict.GUILTY}
    follow = sum(len(found) for key, found in groups.items() if key not in at_fault)
    typer.echo("every call whose inputs agree and outputs differ:")
    console.print_table(
        ("place", "op", "calls", "first"),
        [
            (place, path, str(len(found)), f"#{found[0].site.number}")
            for (place, path, _), found in at_fault.items()
        ],
    )
    if follow:
        typer.echo(
            f"{follow} more calls differ, with inputs that differ already: they follow, or hide "
            "faults of their own until these are mended"
        )


def _show_parts(matches: "Matches", names: bisect_shown.Names) -> None:
    sides = zip(names, (matches.only_judged, matches.only_against), strict=True)
    for name, only in sides:
        if only:
            ops = dict.fromkeys(part.rpartition("/")[2].partition("#")[0] for part in only)
            typer.echo(f"only {name} calls {', '.join(ops)} as parts of composites: not compared")


def _document(
    judged: "Trace",
    right: "Trace",
    matches: "Matches",
    why: "Explanation | None",
    path: Path | None,
) -> dict[str, Any]:
    from glm5_hal.conformance.bisect.matching import Verdict

    first = matches.guilty or matches.foundling
    return {
        "judged": judged.origin.backend,
        "against": right.origin.backend,
        "plans": [judged.origin.plan_hash, right.origin.plan_hash],
        "checkpoint_digest": judged.origin.checkpoint_digest,
        "calls": len(matches.all),
        "differs": first is not None,
        "first": None if first is None else first.site.name,
        "requirements": [] if why is None else list(why.reason.requirements),
        "reason": "" if why is None else why.reason.text,
        "difference": None if why is None else bisect_shown.difference_document(why.difference),
        "case": None if path is None else str(path),
        "next": []
        if first is None or why is not None
        else [_next(trace, first.site.name) for trace in (judged, right)],
        "differing": [
            {
                "site": match.site.name,
                "verdict": match.verdict.value,
                "inputs": list(match.inputs),
                "outputs": list(match.outputs),
            }
            for match in matches.all
            if match.verdict is not Verdict.SAME
        ],
    }
