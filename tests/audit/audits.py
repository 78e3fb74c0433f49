"""Running the audit in processes of its own, for the tests of this folder.

Triton is never imported here: a process that has imported it for compiling cannot interpret kernels
any more, which other tests do.
"""

import os
import subprocess
import sys
from pathlib import Path

from glm5_hal.conformance.audit.auditing import own_kernels
from glm5_hal.conformance.audit.compiler import Compiled
from glm5_hal.conformance.audit.targets import targets

SOUND = "embedding/exact/move/i16"
"""A kernel that is quickly compiled."""


def python(cache: Path, *arguments: object) -> "subprocess.CompletedProcess[str]":
    """A Python that compiles kernels into `cache`."""
    dropped = ("GLM5_HAL_", "TRITON_")
    kept = {name: text for name, text in os.environ.items() if not name.startswith(dropped)}
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        env=kept | {"OMP_NUM_THREADS": "1", "TRITON_CACHE_DIR": str(cache), "CI": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )


def audit(cache: Path, *arguments: object) -> "subprocess.CompletedProcess[str]":
    """`glm5-hal audit` with some arguments."""
    return python(cache, "-m", "glm5_hal", "audit", *arguments)


def code(target: str, **parts: object) -> Compiled:
    """Code for a target of which only some parts are of interest."""
    empty = {"ttir": "", "ttgir": "", "llir": "", "assembly": "", "shared": 0, "spills": 0}
    options = {"num_warps": 4, "enable_fp_fusion": False}
    return Compiled(**{"target": targets()[target], "options": options, **empty, **parts})  # type: ignore[arg-type]


class Dying:
    """A kernel that takes the compiler's process down, by looking at what it is."""

    name = op = "dying"

    @property
    def function(self) -> object:
        os._exit(1)


def fragile() -> list[object]:
    """One kernel that ends its compiler, and one like any other."""
    return [Dying(), *(k for k in own_kernels() if k.name == SOUND)]
