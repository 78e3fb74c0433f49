"""`glm5-hal bisect --numerics fast`: ops ranked by their error against float64."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer

from glm5_hal.cli import bisect_shown, console
from glm5_hal.cli.failures import CommandError, ExitCode
from glm5_hal.cli.watched import Run

if TYPE_CHECKING:
    from glm5_hal import Runtime
    from glm5_hal.conformance.bisect.growth import Growth, Measured, Row

SHOWN = 20
"""Rows of the ranking on a terminal; JSON holds all."""


def rank(run: Run, judged: "Runtime", right: "Runtime", json: bool) -> None:
    """Measure both backends and print the ranking; ends with 1 if a bound is exceeded."""
    from glm5_hal.conformance.bisect.running import grown

    growth = grown(judged, right, run.load, run.prompts("measuring"))
    names = judged.plan.backend, right.plan.backend
    if not growth.rows():
        raise CommandError(
            f"backend {names[0]!r} answers no call of this model: {growth.calls[0].message}",
            ExitCode.UNUSABLE,
        )
    if json:
        console.print_json(_document(growth, names))
    else:
        _show(growth, names)
    if any(row.worst.judged > 1 for row in growth.rows()):
        raise typer.Exit(ExitCode.FAILED)


def _show(growth: "Growth", names: bisect_shown.Names) -> None:
    rows, begins = growth.rows(), growth.begins
    beyond = sum(row.worst.judged > 1 for row in rows)
    first = rows[0].worst
    colour = "red" if beyond else "green"
    bisect_shown.line("most", f"{first.site.name}: {_shares(first, names)}", colour)
    start = "nowhere: no error stands out"
    if begins is not None:
        start = f"{begins.site.name}: {_shares(begins, names)}"
    bisect_shown.line("begins", start)
    verdict = f"{beyond} of {len(rows)} ops are beyond" if beyond else f"all {len(rows)} ops within"
    bisect_shown.line("bounds", f"{verdict} the bound on their error, counted place by place")
    typer.echo()
    typer.echo("largest errors against float64, as shares of the bound, with identical inputs:")
    columns = ("place", "op", "calls", "worst", "judged", "against", "growth")
    table = [_row(row) for row in rows[:SHOWN]]
    console.print_table(columns, table, right=columns[4:])
    if len(rows) > SHOWN:
        typer.echo(f"and {len(rows) - SHOWN} more that grow less; --json lists all calls")
    for call in growth.unmeasured():
        bisect_shown.line("unjudged", f"{call.site.name}: {call.message}", "yellow")


def _row(row: "Row") -> tuple[str, ...]:
    worst = row.worst
    shares = (worst.judged, worst.against, worst.growth)
    number = f"#{worst.site.number}"
    return (row.place, row.path, str(len(row.calls)), number, *(f"{s:.3g}" for s in shares))


def _shares(call: "Measured", names: bisect_shown.Names) -> str:
    return f"{names[0]} {call.judged:.3g} of the bound, {names[1]} {call.against:.3g}"


def _document(growth: "Growth", names: bisect_shown.Names) -> dict[str, Any]:
    begins = growth.begins
    return {
        "backend": names[0],
        "against": names[1],
        "begins": None if begins is None else begins.site.name,
        "calls": [
            {
                "site": call.site.name,
                **asdict(call.site),
                "judged": _number(call.judged),
                "other": _number(call.against),
                "message": call.message,
            }
            for call in growth.calls
        ],
    }


def _number(share: float) -> float | str:
    """JSON has no infinity."""
    return share if share < float("inf") else "infinite"
