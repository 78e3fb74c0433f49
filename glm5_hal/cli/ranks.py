"""One command on several processes: `--ranks N`, or torchrun around `python -m glm5_hal`."""

import os
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from typing import IO, TYPE_CHECKING, Annotated

import typer

from glm5_hal.cli.failures import CommandError

if TYPE_CHECKING:
    from glm5_hal import Runtime
    from glm5_hal.model.ranks import Ranks

Option = Annotated[
    int | None,
    typer.Option(
        "--ranks",
        min=1,
        metavar="N",
        help="Processes that hold the model together; the exact profile only.",
    ),
]

_POLL = 0.05


def started(ranks: int | None) -> bool:
    """Whether this process computes; if not, it has started those that do and they have ended.

    Raises:
        CommandError: torchrun has started another number of processes.
        typer.Exit: with the code of the first process that failed.
    """
    inside = os.environ.get("WORLD_SIZE")
    if inside is not None:
        if ranks is not None and int(inside) != ranks:
            raise CommandError(f"--ranks {ranks}, but WORLD_SIZE={inside}: leave --ranks out")
        return True
    if ranks in (None, 1):
        return True
    if code := _launch(ranks or 1):
        raise typer.Exit(code)
    return False


def join(runtime: "Runtime") -> "Ranks":
    """The ranks that this process belongs to; all but the first fall silent."""
    from glm5_hal.model.ranks import of_environment

    ranks = of_environment(runtime)
    if ranks.rank:
        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115 - until the end
    return ranks


def _launch(size: int) -> int:
    """Run this command once per rank; returns the first failure's exit code, or 0."""
    with ExitStack() as stack:
        logs: list[IO[bytes] | None] = [None]
        logs += [stack.enter_context(tempfile.TemporaryFile()) for _ in range(1, size)]
        common = {
            **os.environ,
            "WORLD_SIZE": str(size),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(_free_port()),
        }
        common.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // size)))
        command = [sys.executable, "-m", "glm5_hal", *sys.argv[1:]]
        processes = [
            subprocess.Popen(
                command,
                env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdout=None if log is None else subprocess.DEVNULL,
                stderr=log,
            )
            for rank, log in enumerate(logs)
        ]
        try:
            failed = _first_failure(processes)
        finally:
            for process in processes:
                process.kill()
                process.wait()
        if failed is None:
            return 0
        if (log := logs[failed]) is not None:
            log.seek(0)
            text = log.read().decode(errors="replace").strip()
            typer.echo(f"rank {failed} failed:\n{text}", err=True)
        return processes[failed].returncode or 1


def _first_failure(processes: "list[subprocess.Popen[bytes]]") -> int | None:
    """Wait until all have ended well, or one has not: its rank."""
    while True:
        codes = [process.poll() for process in processes]
        for rank, code in enumerate(codes):
            if code:
                return rank
        if all(code == 0 for code in codes):
            return None
        time.sleep(_POLL)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
