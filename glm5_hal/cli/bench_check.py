"""`glm5-hal bench --check`: hold the ratios of a baseline."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from glm5_hal.cli import console, options
from glm5_hal.cli.bench_run import measured, new_directory, write
from glm5_hal.cli.failures import ExitCode

if TYPE_CHECKING:
    from glm5_hal.conformance.bench.baseline import Baseline, Verdict
    from glm5_hal.conformance.bench.cases import OpCase
    from glm5_hal.conformance.bench.results import OpResult, Report
    from glm5_hal.conformance.bench.running import Settings


def check_baseline(
    path: Path,
    settings: "Settings",
    dtype: options.DType | None,
    threads: int | None,
    out: Path | None,
    json: bool,
) -> None:
    """Measure the cases of a baseline under its conditions."""
    from glm5_hal.conformance.bench.baseline import Baseline, check

    wanted = Baseline.read(path)
    held = wanted.conditions
    settings = replace(
        settings,
        backend=settings.backend or held["backend"],
        numerics=settings.numerics or held["numerics"],
        dtype=dtype or held["dtype"],
        threads=threads or held["threads"],
    )
    reports: list[Report] = []

    def measure(cases: "Sequence[OpCase]") -> "Sequence[OpResult]":
        reports.append(measured(settings, cases, None))
        return reports[-1].ops

    with ExitStack() as stack:
        folder = stack.enter_context(new_directory(out)) if out else None
        verdicts = check(wanted, measure)
        if folder is not None:
            write(reports[0], folder)
    here = list(reports[0].where.instruction_sets)
    if here != wanted.processor.get("instruction_sets"):
        console.note("warning: the baseline is of a processor with other instruction sets")
    _print_verdicts(wanted, verdicts, json)
    if not all(verdict.good for verdict in verdicts):
        raise typer.Exit(ExitCode.FAILED)


def _print_verdicts(wanted: "Baseline", verdicts: "Sequence[Verdict]", json: bool) -> None:
    if json:
        rows = [{**vars(verdict), "case": verdict.case.id} for verdict in verdicts]
        console.print_json({"tolerance": wanted.tolerance, "verdicts": rows})
    else:
        columns = ("case", "baseline", "now", "")
        cells = [
            (
                verdict.case.id,
                f"{verdict.wanted:.2f}",
                "–" if verdict.found is None else f"{verdict.found:.2f}",
                "held" if verdict.good else "not run" if verdict.found is None else "slower",
            )
            for verdict in verdicts
        ]
        console.print_table(columns, cells, right=columns[1:3])
        typer.echo(f"\nratios to torch; at most {wanted.tolerance:g} times the baseline's")
    for verdict in verdicts:
        if verdict.found is None:
            console.fail(f"{verdict.case.id} was not run: {verdict.reason}")
        elif not verdict.good:
            console.fail(
                f"{verdict.case.id} takes {verdict.found:.2f} times as long as torch, twice "
                f"measured; the baseline has {verdict.wanted:.2f}"
            )
