"""`glm5-hal conformance export-onnx` and `check-onnx`: the suite for chips that run ONNX."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from glm5_hal.cli import console, onnx_extra, options
from glm5_hal.cli.conformance_run import Ops, Quick, split
from glm5_hal.cli.failures import CommandError, ExitCode

if TYPE_CHECKING:
    from glm5_hal.conformance.onnx_packs.checking import Checked
    from glm5_hal.levels import Level


def export_onnx(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A new or empty directory.")],
    ops: Ops = None,
    numerics: Annotated[
        Literal["fast", "exact"], typer.Option(help="Numeric profile of the cases.")
    ] = "exact",
    quick: Quick = False,
    opset: Annotated[
        int | None, typer.Option(metavar="N", help="Version of the standard; default: 21.")
    ] = None,
) -> None:
    """Write cases as ONNX models with inputs and expected outputs.

    The layout is that of ONNX's own backend tests; DIR/run.py runs them, and `check-onnx` judges
    what comes out. The manifest says which cases are left out, and why.
    """
    onnx_extra.require("conformance export-onnx")
    from collections import Counter

    from glm5_hal import Numerics
    from glm5_hal.conformance import sources
    from glm5_hal.conformance.onnx_packs.layout import pack_id
    from glm5_hal.conformance.onnx_packs.writing import export
    from glm5_hal.conformance.selection import Selection
    from glm5_hal.kernels.onnx import OPSET, opset_problem
    from glm5_hal.staging import target_problem

    opset = OPSET if opset is None else opset
    if problem := opset_problem(opset) or target_problem(directory):
        raise CommandError(problem)
    selection = Selection(Numerics(numerics), quick, split(ops))
    try:
        with console.progress("cases") as advance:
            content = export(
                directory, selection, sources.SUITE.cases(), opset=opset, progress=advance
            )
    except OSError as error:
        raise CommandError(f"{directory} was not written: {error}", ExitCode.FAILED) from None
    reasons = Counter(content["left_out"].values())
    for reason, count in sorted(reasons.items()):
        typer.echo(f"left out: {count} cases: {reason}")
    typer.echo(
        f"pack {pack_id(directory)}: {directory}, {numerics}, opset {opset}, "
        f"{len(content['cases'])} cases, {len(content['data_sets'])} data sets"
    )


def check_onnx(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A pack.")],
    results: Annotated[
        Path,
        typer.Argument(metavar="RESULTS", help="Holds MODEL/test_data_set_N/output_K.pb."),
    ],
    ops: Ops = None,
    claims: Annotated[
        str | None,
        typer.Option(
            metavar="A,B",
            help="Levels promised in the fast profile, such as batch-invariant; default: none. "
            "The exact profile promises all.",
        ),
    ] = None,
    json: options.Json = False,
) -> None:
    """Judge the outputs of a pack, by the checks of the suite.

    Exit codes: 0 passed, 1 failed or a pack that is not whole, 2 usage, 3 no output of the pack.
    """
    onnx_extra.require("conformance check-onnx")
    from glm5_hal.conformance import sources
    from glm5_hal.conformance.onnx_packs.checking import check
    from glm5_hal.conformance.onnx_packs.reading import read

    if not directory.is_dir():
        raise CommandError(f"{directory} is no directory; expected a pack")
    pack = read(directory)
    with console.progress("cases") as advance:
        checked = check(
            pack,
            results,
            sources.SUITE.cases(),
            ops=split(ops),
            claims=_levels(claims, pack.facts["profile"]),
            progress=advance,
        )
    if json:
        console.print_json(_document(checked))
    else:
        _print(checked)
    if checked.problems:
        raise typer.Exit(ExitCode.FAILED)


def _levels(claims: str | None, profile: str) -> "frozenset[Level]":
    from glm5_hal.levels import Level, Numerics

    if profile == Numerics.EXACT.value:
        if claims is not None:
            raise CommandError("--claims is for the fast profile; the exact one promises all")
        return frozenset(Level)
    known = {level.value: level for level in Level}
    asked = split(claims)
    if unknown := [name for name in asked if name not in known]:
        raise CommandError(f"no level {', '.join(unknown)}; levels: {', '.join(known)}")
    return frozenset(known[name] for name in asked)


def _print(checked: "Checked") -> None:
    from glm5_hal.conformance.text import LEGEND, Matrix, teach
    from glm5_hal.conformance.verdict import BROKEN

    for result in checked.results:
        if result.status in BROKEN:
            typer.echo(teach(result) + "\n")
    matrix = Matrix.of(checked.results)
    console.print_table(("op", *matrix.aspects), matrix.rows())
    typer.echo(f"({LEGEND})")
    facts = checked.pack.facts
    typer.echo(
        f"pack {checked.pack.id}: {facts['profile']}, opset {facts['opset']}, "
        f"{len(checked.results)} of {len(checked.pack.cases)} cases"
    )
    for problem in checked.problems:
        console.fail(problem)
    typer.echo("failed" if checked.problems else "passed")


def _document(checked: "Checked") -> dict[str, Any]:
    from glm5_hal.conformance import records
    from glm5_hal.conformance.verdict import counts

    return {
        "passed": not checked.problems,
        "problems": checked.problems,
        "pack": checked.pack.id,
        "counts": counts(checked.results),
        "results": [records.plain(result) for result in checked.results],
    }
