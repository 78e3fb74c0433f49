"""Judging one case: whatever its check does becomes a result."""

import datetime
import math
import shlex
import time
import traceback
from dataclasses import asdict, replace

from glm5_hal import Plan, Runtime, Unsupported
from glm5_hal.conformance import golden
from glm5_hal.conformance.case import Case, Evidence, Failure, Result, Status
from glm5_hal.conformance.compare import Difference
from glm5_hal.conformance.waivers import Waivers
from glm5_hal.levels import Level

LONGEST = 4000
"""Characters of a message that are kept."""


_OTHER_BYTES = "the parity-bytes cases of the op name the first element that differs"


def reproduce(case: Case, plan: Plan) -> str:
    """A command that runs one case alone."""
    backend = plan.backend if plan.index == 0 else f"{plan.backend}:{plan.index}"
    numerics = "" if plan.numerics.value == "fast" else f" --numerics {plan.numerics.value}"
    # quoted even where the shell would not need it: ids hold slashes and brackets
    name = shlex.quote(case.id) if shlex.quote(case.id) != case.id else f"'{case.id}'"
    return f"GLM5_HAL_BACKEND={backend} glm5-hal conformance run{numerics} --case {name}"


def outcome(case: Case, plan: Plan, status: Status, seconds: float, message: str) -> Result:
    """A result that says no more than a sentence."""
    return Result(
        id=case.id,
        requirement=case.requirement,
        op=case.op,
        aspect=case.aspect,
        relation=case.relation,
        status=status,
        seconds=round(seconds, 3),
        message=_clean(message),
        reproduce=reproduce(case, plan),
    )


def _clean(message: str) -> str:
    """A message that can be printed and is not endless: some exceptions quote whole tensors."""
    text = message.encode(errors="replace").decode()
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} ... ({len(text)} characters)"


def judge(case: Case, runtime: Runtime) -> Result:
    """Run a case's check; what it raises is a finding, never an end of the run."""
    start = time.perf_counter()
    declared = runtime.backend.capabilities.unsupported

    def say(status: Status, message: str = "") -> Result:
        return outcome(case, runtime.plan, status, time.perf_counter() - start, message)

    try:
        evidence = case.check(runtime)
        other_bytes = _golden_problem(case, evidence)
    except Failure as failure:
        return replace(
            say(Status.FAIL, failure.message),
            change=failure.change,
            difference=_plain(failure.difference) if failure.difference else None,
            hint=failure.hint,
        )
    except Unsupported as error:
        if error.op == case.op and error.op in declared:
            return say(Status.UNSUPPORTED, declared[error.op])
        return say(Status.FAIL, f"{error} (only an optional op may be missing, and declared)")
    except (Exception, SystemExit) as error:  # an op that calls sys.exit must not end the run
        return say(Status.FAIL, f"{type(error).__name__}: {error} (raised {_last_frame(error)})")
    problem = _problem(evidence)
    if problem:
        return say(Status.FAIL, problem)
    if other_bytes:
        return replace(say(Status.FAIL, other_bytes), digests=evidence.digests, hint=_OTHER_BYTES)
    if case.op in declared:
        return say(
            Status.FAIL, f"{case.op} is declared unsupported ({declared[case.op]}), but runs"
        )
    return replace(
        say(Status.PASS), digests=evidence.digests, worst=evidence.worst, ulps=evidence.ulps
    )


def _golden_problem(case: Case, evidence: object) -> str:
    """How a case's digests differ from the golden ones; empty if they do not.

    Raises:
        Failure: naming the first element that differs, where the check can find it.
    """
    if not isinstance(evidence, Evidence):
        return ""
    problem = golden.problem(case, evidence.digests)
    if problem and evidence.explain is not None and golden.of(case.id) is not None:
        evidence.explain()
        raise Failure("the golden digest is not the definition's", hint=golden.MAKE)
    return problem


def _plain(difference: Difference) -> dict[str, object]:
    """As it comes back from JSON."""
    return {**asdict(difference), "index": list(difference.index)}


def _problem(evidence: object) -> str:
    if not isinstance(evidence, Evidence):
        return f"the check returned {type(evidence).__name__}, not evidence"
    if evidence.worst is not None and not math.isfinite(evidence.worst):
        return f"the check measured an error of {evidence.worst} and let it pass"
    return ""


def _last_frame(error: BaseException) -> str:
    frames = list(traceback.walk_tb(error.__traceback__))
    if not frames:
        return "nowhere"
    frame, number = frames[-1]
    return f"in {frame.f_globals.get('__name__', '?')}.{frame.f_code.co_qualname}, line {number}"


def not_claimed(case: Case, claims: frozenset[Level], backend: str) -> str:
    """Why a case is not run; empty if it is. Run-to-run is mandatory."""
    levels = {level.value for level in Level} - {Level.RUN_TO_RUN.value}
    if case.aspect not in levels or Level(case.aspect) in claims:
        return ""
    return f"not claimed by backend {backend}"


def waive(result: Result, waivers: Waivers, day: datetime.date) -> Result:
    """Apply the waivers: an expected failure is no failure, an unexpected pass is one.

    A crash or a hang is never expected: it takes the process with it.

    Args:
        result: as judged.
        waivers: the backend's.
        day: on which the run began.
    """
    waiver = waivers.of(result.id, day)
    if waiver is None:
        gone = waivers.expired(result.id, day)
        if gone is None or result.status is not Status.FAIL:
            return result
        return replace(result, hint=f"its waiver expired on {gone.expires}: {gone.reason}")
    if result.status is Status.FAIL:
        return replace(
            result, status=Status.EXPECTED_FAIL, message=f"{waiver}; found: {result.message}"
        )
    if result.status is Status.PASS:
        return replace(
            result,
            status=Status.FAIL,
            message=f"passes, but is waived: {waiver}",
            hint="the waiver is out of date: remove it",
        )
    return result
