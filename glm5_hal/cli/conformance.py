"""`glm5-hal conformance`: judge a backend, and look at what judging left behind."""

from pathlib import Path
from typing import Annotated

import typer

from glm5_hal.cli import console, options
from glm5_hal.cli.conformance_golden import golden
from glm5_hal.cli.conformance_onnx import check_onnx, export_onnx
from glm5_hal.cli.conformance_protections import protections
from glm5_hal.cli.conformance_run import Numerics, Ops, Quick, run, split
from glm5_hal.cli.conformance_suite import mutants, record
from glm5_hal.cli.failures import CommandError, ExitCode

app = typer.Typer(
    no_args_is_help=True,
    help="Prove, bit by bit, which guarantees a backend keeps.",
)
app.command()(run)
app.command()(record)
app.command()(mutants)
app.command()(protections)
app.command()(golden)
app.command()(export_onnx)
app.command()(check_onnx)

PackagePath = Annotated[Path, typer.Argument(metavar="PACKAGE", help="A directory or a tar.")]


@app.command("list")
def list_cases(
    ops: Ops = None, quick: Quick = False, numerics: Numerics = None, json: options.Json = False
) -> None:
    """List the cases."""
    from glm5_hal import Numerics as Profile
    from glm5_hal.conformance import sources
    from glm5_hal.conformance.selection import Selection

    offered = [profile.value for profile in Profile]
    if numerics not in (None, *offered):
        raise CommandError(f"no profile {numerics!r}; profiles: {', '.join(offered)}")
    selection = Selection(Profile(numerics or "fast"), quick, split(ops))
    cases = list(selection.of(sources.SUITE.cases()).values())
    if json:
        keys = ("id", "requirement", "op", "aspect", "relation", "quick", "timeout")
        console.print_json([{key: getattr(case, key) for key in keys} for case in cases])
    else:
        console.print_table(
            ("case", "op", "aspect", "quick"),
            [(case.id, case.op, case.aspect, "yes" if case.quick else "no") for case in cases],
        )
    if not cases:
        raise typer.Exit(ExitCode.UNUSABLE)


@app.command()
def explain(
    requirement: Annotated[str, typer.Argument(metavar="REQ", help="Such as TOPK-2.")],
) -> None:
    """Explain a requirement: its sentence, its op's definition, its cases."""
    from glm5_hal.conformance import sources
    from glm5_hal.conformance.selection import closest
    from glm5_hal.conformance.text import explain as explained
    from glm5_hal.requirements import REQUIREMENTS

    name = requirement.upper()
    if name not in REQUIREMENTS:
        raise CommandError(f"no requirement {requirement!r}; {closest(name, REQUIREMENTS)}")
    cases = [case for case in sources.SUITE.cases().values() if case.requirement == name]
    typer.echo(explained(name, cases))


@app.command()
def report(
    package: PackagePath,
    output: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Default: PACKAGE.html; the package stays as it is."),
    ] = None,
) -> None:
    """Make the HTML report of a package again."""
    from glm5_hal.conformance.package import read, render_report

    target = output or package.with_name(f"{package.name.removesuffix('.tar')}.html")
    target.write_text(render_report(read(package)), "utf-8")
    typer.echo(target)


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(metavar="A", help="A package: directory or tar.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="Another.")],
    json: options.Json = False,
) -> None:
    """Compare the output digests of two packages, by op and level.

    Ops that move bytes or order given scores have to agree, in the exact profile every op.
    """
    from glm5_hal.conformance.agreement import compare as compared
    from glm5_hal.conformance.package import read

    found = compared(read(first), read(second))
    if json:
        console.print_json(found.to_dict())
    else:
        for remark in found.remarks:
            console.note(f"warning: {remark}")
        console.print_table(("op", "aspect", "agree", "has to"), found.rows())
        for side, names in zip((first, second), found.only, strict=True):
            if names:
                typer.echo(f"only in {side}: {len(names)} cases, such as {names[0]}")
        for pair in found.pairs:
            if not pair.agrees:
                typer.echo(f"{'FAIL' if pair.must else 'differs'} {pair.result.id}")
    if not found.pairs:
        raise CommandError("no case has outputs in both packages", ExitCode.UNUSABLE)
    if found.broken:
        console.fail(f"{len(found.broken)} cases have to agree and do not")
        raise typer.Exit(ExitCode.FAILED)


@app.command()
def verify(package: PackagePath, json: options.Json = False) -> None:
    """Check a package again, without the hardware; exit 1 if anything is off."""
    from glm5_hal.conformance import sources
    from glm5_hal.conformance.package import read
    from glm5_hal.conformance.verify import verify as verified

    if not package.exists():
        raise CommandError(f"{package} does not exist")
    content = read(package)
    problems = verified(content, sources.SUITE)
    if json:
        console.print_json({"id": content.id, "stands": not problems, "problems": problems})
    elif not problems:
        manifest = content.manifest
        typer.echo(f"package {content.id} stands")
        console.print_facts(
            {
                "suite": f"{manifest['suite_version']}, contract {manifest['contract_version']}",
                "backend": manifest["backend"],
                "device": manifest["device"],
                "list": manifest["must_pass_list"],
                "ended": manifest["ended"],
                "shows": ", ".join(manifest["shown"]["levels"]),
            }
        )
    if problems:
        for problem in problems:
            console.fail(problem)
        raise typer.Exit(ExitCode.FAILED)


@app.command()
def freeze(
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit 1 if a list would change.")
    ] = False,
) -> None:
    """For developers: write the must-pass lists of the catalogue into a checkout."""
    from glm5_hal.conformance import sources
    from glm5_hal.conformance.mustpass import MustPass, frozen

    source = sources.SUITE
    if not check and not (source.lists.parents[1] / "pyproject.toml").exists():
        raise CommandError(f"{source.lists} is not in a checkout; its lists are part of a release")
    changed = False
    for wanted in frozen(source.cases()):
        before = MustPass.load(wanted.name, source.lists)
        removed, added = set(before.ids) - set(wanted.ids), set(wanted.ids) - set(before.ids)
        changed = changed or before != wanted
        typer.echo(f"{wanted.name}: {len(wanted.ids)} cases, {len(added)} new, {len(removed)} gone")
        if not check:
            wanted.freeze(source.lists)
    if check and changed:
        raise typer.Exit(ExitCode.FAILED)
