"""Environment variables: one table, from which the documentation is made.

A backend declares those that it alone reads, in `Backend.variables`.
"""

import difflib
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

PREFIX = "GLM5_HAL_"
log = logging.getLogger("glm5_hal")


@dataclass(frozen=True)
class Variable:
    """One environment variable.

    Attributes:
        name: full name.
        values: what it may hold.
        default: what holds when it is unset.
        meaning: one sentence.
    """

    name: str
    values: str
    default: str
    meaning: str


BACKEND = Variable(
    "GLM5_HAL_BACKEND",
    "name[:index]",
    "cpu",
    "The backend and, where there are several devices, which one.",
)
NUMERICS = Variable(
    "GLM5_HAL_NUMERICS",
    "fast or exact",
    "fast",
    "The numeric profile: the backend's own arithmetic, or the same bits everywhere.",
)
SUBSTITUTE = Variable(
    "GLM5_HAL_SUBSTITUTE",
    "cpu",
    "off",
    "Run ops that the backend lacks on the CPU. Recorded in the plan; such a run claims nothing.",
)
MODE = Variable(
    "GLM5_HAL_MODE",
    "a mode of the backend",
    "the backend's first",
    "One of several ways of computing the same, such as an instruction set; `doctor` lists them.",
)
SIMULATED = Variable(
    "GLM5_HAL_SIMULATED",
    "1",
    "off",
    "Lay a vendor's backend on a simulated device. Recorded; it shows nothing about a chip.",
)
VARIABLES = (BACKEND, NUMERICS, MODE, SUBSTITUTE, SIMULATED)


def read(variable: Variable, environ: Mapping[str, str] = os.environ) -> str | None:
    """The value of `variable`, None when unset or empty."""
    return environ.get(variable.name) or None


def warn_unknown(
    environ: Mapping[str, str] = os.environ, others: Callable[[], Iterable[Variable]] = tuple
) -> list[str]:
    """Log a warning for every ``GLM5_HAL_*`` variable that nothing reads; returns their names.

    Args:
        environ: where they are looked for.
        others: gives what backends declare; called only if this table does not have them all.
    """
    known = [variable.name for variable in VARIABLES]
    unknown = sorted(n for n in environ if n.startswith(PREFIX) and n not in known)
    if unknown:
        known += [variable.name for variable in others()]
    unknown = [name for name in unknown if name not in known]
    for name in unknown:
        # without the prefix, which makes any two alike
        ends = [other.removeprefix(PREFIX) for other in known]
        close = difflib.get_close_matches(name.removeprefix(PREFIX), ends, n=1, cutoff=0.6)
        hint = f"did you mean {PREFIX}{close[0]}?" if close else f"known: {', '.join(known)}"
        log.warning("environment variable %s is not read by anything; %s", name, hint)
    return unknown
