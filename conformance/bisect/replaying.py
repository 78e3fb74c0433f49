"""Asking a written case again."""

from dataclasses import dataclass

from glm5_hal import Runtime
from glm5_hal.conformance.bisect.asking import Asker, NotGivenError
from glm5_hal.conformance.bisect.casefile import CaseFile
from glm5_hal.conformance.compare import Difference, first_difference
from glm5_hal.conformance.errors import UnusableError
from glm5_hal.place import place


@dataclass(frozen=True)
class Replayed:
    """What a backend answers to a case.

    Attributes:
        backend: its name.
        differs: whether it answers otherwise than expected, or not at all.
        as_found: whether it answers as when the case was written.
        difference: first difference; None where there is none, or no answer.
        message: what it raised.
    """

    backend: str
    differs: bool
    as_found: bool
    difference: Difference | None
    message: str = ""


def replay(case: CaseFile, runtime: Runtime) -> Replayed:
    """Ask a backend a case.

    Raises:
        UnusableError: its cache cannot be given the rows of the case.
    """
    name = runtime.plan.backend
    try:
        with place(case.place):
            found = Asker(runtime).answer(case.call)
    except NotGivenError as error:
        raise UnusableError(f"backend {name!r}: {error}") from error
    except Exception as error:  # whatever a backend raises is the answer
        return Replayed(name, True, not case.found, None, f"{type(error).__name__}: {error}")
    difference = first_difference(case.expected, found, any_nan=False)
    again = first_difference(case.found, found, any_nan=False) is None
    return Replayed(name, difference is not None, again, difference)
