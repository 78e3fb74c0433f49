"""The application: its commands, and what becomes of an error.

A command is a function in a module of its own, entered in `COMMANDS`; a group is a `typer.Typer`
in a module of its own, entered in `GROUPS`. Modules import torch and the model inside functions
only, so that `--help` is quick.
"""

import sys
from collections.abc import Callable
from typing import Any

import typer
from typer.core import TyperGroup

from glm5_hal.cli import (
    audit,
    backends,
    bench,
    bisect,
    checkpoint,
    conformance,
    console,
    doctor,
    export_onnx,
    logits,
    lowering,
    matrix,
    new_backend,
    params,
    plan,
    port,
    run,
    trace,
)
from glm5_hal.cli.failures import exit_code

COMMANDS: dict[str, Callable[..., None]] = {
    "backends": backends.backends,
    "doctor": doctor.doctor,
    "plan": plan.plan,
    "params": params.params,
    "make-checkpoint": checkpoint.make_checkpoint,
    "run": run.run,
    "logits": logits.logits,
    "bench": bench.bench,
    "bisect": bisect.bisect,
    "trace": trace.trace,
    "audit": audit.audit,
    "lowering": lowering.lowering,
    "matrix": matrix.matrix,
    "export-onnx": export_onnx.export_onnx,
    "new-backend": new_backend.new_backend,
}
GROUPS: dict[str, typer.Typer] = {"conformance": conformance.app, "port": port.app}


class _Commands(TyperGroup):
    """Turns an error that explains itself into its message and its exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except Exception as error:
            code = exit_code(error)
            if code is None:
                raise
            console.fail(str(error))
            raise typer.Exit(code) from None


app = typer.Typer(
    cls=_Commands,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def start() -> None:
    """GLM-5 on any accelerator, the same to the bit.

    Exit codes: 0 good, 1 failed, 2 usage, 3 environment unusable or nothing ran.
    """
    console.show_warnings()


for _name, _command in COMMANDS.items():
    app.command(_name)(_command)
for _name, _group in GROUPS.items():
    app.add_typer(_group, name=_name)


def main() -> None:
    """Entry point of `glm5-hal`."""
    if console.is_terminal(sys.stdout) and console.is_terminal(sys.stderr):
        app.rich_markup_mode = "rich"
    app()
