"""`glm5-hal plan`: which implementation answers each op."""

from typing import TYPE_CHECKING, Annotated

import typer

from glm5_hal.cli import console, options

if TYPE_CHECKING:
    from glm5_hal import Plan, Runtime


def plan(
    backend: options.Backend = None,
    numerics: Annotated[
        str | None,
        typer.Option(metavar="PROFILE", help="Default: GLM5_HAL_NUMERICS, else fast."),
    ] = None,
    json: options.Json = False,
) -> None:
    """Show which implementation answers each op."""
    decided = open_runtime(backend, numerics).plan
    if json:
        console.print_json({**decided.to_dict(), "hash": decided.hash})
        return
    console.print_table(
        ("op", "source", "implementation"),
        [(name, chosen.source, chosen.where) for name, chosen in decided.ops.items()],
    )
    typer.echo()
    console.print_facts(
        {
            "backend": f"{decided.backend}:{decided.index}",
            "numerics": decided.numerics.value,
            **({"mode": decided.mode} if decided.mode else {}),
            "contract version": str(decided.contract_version),
            **decided.versions,
            "hash": decided.hash,
        }
    )


def open_runtime(backend: str | None, numerics: str | None = None) -> "Runtime":
    """`glm5_hal.open_runtime`, saying so where nobody chose the backend."""
    from glm5_hal import open_runtime as open_chosen

    runtime = open_chosen(backend, numerics)
    note_default(backend)
    return runtime


def note_default(backend: str | None) -> None:
    """Say which backend is taken where nobody chose one."""
    from glm5_hal import env

    if not backend and env.read(env.BACKEND) is None:
        console.note(f"backend: {env.BACKEND.default} ({env.BACKEND.name} is not set)")


def summary(runtime: "Runtime") -> dict[str, str]:
    """A run's plan in short."""
    decided: Plan = runtime.plan
    return {
        "backend": f"{decided.backend}:{decided.index}",
        "numerics": decided.numerics.value,
        "device": f"{runtime.backend.device}{' (simulated)' if decided.simulated else ''}",
        "hash": decided.hash,
    }


def print_summary(runtime: "Runtime") -> None:
    """A run's plan in one line, on stderr."""
    short = summary(runtime)
    console.note(
        f"plan: {short['backend']}, {short['numerics']}, device {short['device']}, {short['hash']}"
    )
