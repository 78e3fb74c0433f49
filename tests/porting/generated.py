"""Packages that `glm5-hal new-backend` writes: found as if installed, asked, and written on."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from glm5_hal import Backend, Runtime
from glm5_hal.conformance.case import Status
from glm5_hal.conformance.catalogue import catalogue
from glm5_hal.conformance.judge import judge, not_claimed
from glm5_hal.plan import resolve

TOPK = """
        out = torch.full((len(scores), k), -1, dtype=torch.int32)
        for row, length in enumerate(lengths.tolist()):
            ranked = torch.sort(scores[row, :length] + 0.0, descending=True, stable=True)
            best = ranked.indices[:k].sort().values
            out[row, : len(best)] = best
        return out
"""
"""A body that keeps every requirement."""
TOPK_LATE_TIES = TOPK.replace("scores[row, :length] + 0.0", "scores[row, :length].flip(0)").replace(
    "ranked.indices[:k]", "(length - 1 - ranked.indices[:k])"
)
"""Among equal scores the highest index wins."""
LINEAR_NARROW = """
        return (x @ w.tensor.to(x.dtype).T).to(out_dtype or x.dtype)
"""
"""A float32 result of bfloat16 activations takes a detour through bfloat16."""


@dataclass(frozen=True)
class Package:
    """A package for a backend, as a user has it.

    Attributes:
        name: of the backend.
        root: of the package.
    """

    name: str
    root: Path

    @property
    def source(self) -> Path:
        """The folder that is imported."""
        return self.root / "src" / f"glm5_hal_{self.name}"

    def write(self, op: str, body: str) -> None:
        """Write an op's method: take the mark off, put the body in."""
        path = self.source / "backend.py"
        text = path.read_text("utf-8")
        method = re.compile(
            rf"    @not_written\n(    def {op}\((?:.|\n)*?)        raise NotImplementedError\n"
        )
        found = method.search(text)
        assert found is not None, op
        new = text[: found.start()] + found[1] + body.lstrip("\n") + text[found.end() :]
        path.write_text(new, "utf-8")

    def rewrite(self, op: str, before: str, after: str) -> None:
        """Change the body of an op that is written."""
        path = self.source / "backend.py"
        text = path.read_text("utf-8")
        assert text.count(before.strip("\n")) == 1, op
        path.write_text(text.replace(before.strip("\n"), after.strip("\n")), "utf-8")


Make = Callable[..., Package]
"""Writes a package of a base and lets the registry find it."""


def quick(op: str, runtime: Runtime) -> dict[str, str]:
    """Judge an op's quick cases here; message of each that does not pass, by id.

    Those that compare with a fresh process are left to the runs of the whole command.
    """
    profile = runtime.plan.numerics
    claims = runtime.backend.capabilities.claims.get(profile, frozenset())
    cases = [
        case
        for case in catalogue().values()
        if case.op == op and case.quick and case.profile is profile
        if case.requirement != "RUN-2" and not not_claimed(case, claims, runtime.plan.backend)
    ]
    assert cases
    results = [judge(case, runtime) for case in cases]
    return {result.id: result.message for result in results if result.status is not Status.PASS}


def opened(name: str, numerics: str = "fast") -> Runtime:
    """A runtime on a backend."""
    plan, cls = resolve(name, numerics, {})
    backend: Backend = cls(plan.index)
    return Runtime(plan, backend)


def hal(*arguments: object, path: Path, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """`glm5-hal` in a process of its own that finds what lies in `path`."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GLM5_HAL_")}
    environment |= {"PYTHONPATH": str(path), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "glm5_hal", *map(str, arguments)]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=timeout, check=False
    )


def enter(package: Package) -> Path:
    """What pip leaves of an editable install: the entry point; returns the folder for the path."""
    folder = package.root / "src"
    info = folder / f"glm5_hal_{package.name}-0.1.0.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: glm5-hal-{package.name}\nVersion: 0.1.0\n"
    )
    title = "".join(part.capitalize() for part in package.name.split("_"))
    point = f"{package.name} = glm5_hal_{package.name}.backend:{title}Backend"
    (info / "entry_points.txt").write_text(f"[glm5_hal.backends]\n{point}\n")
    return folder
