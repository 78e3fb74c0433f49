"""Judging kernels on targets: every rule on every piece of code."""

import enum
import functools
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Protocol

from glm5_hal.conformance.audit.compiler import Compiled, Kernel, Refused, compile_for
from glm5_hal.conformance.audit.rules import RULES, Judgement, Status
from glm5_hal.conformance.audit.targets import Target
from glm5_hal.conformance.errors import AskedError, UnusableError


class KernelSource(Protocol):
    """Lists kernels; can be pickled, so that worker processes list them again."""

    def __call__(self) -> Sequence[Kernel]: ...


class Verdict(enum.Enum):
    """What the audit found of one kernel on one target."""

    CLEAN = "ok"
    BROKEN = "broken"
    """A rule found something."""
    REFUSED = "refused"
    """The compiler does not take it."""
    KNOWN = "not taken"
    """The compiler is known not to take the target."""
    SURPRISE = "taken"
    """The compiler takes a target that it was known not to take."""


@dataclass(frozen=True)
class Finding:
    """One kernel on one target.

    Attributes:
        kernel, op, profile, target: what was compiled, for what.
        verdict: in one word.
        rules: what each rule says of it.
        reason: why it was refused.
        shared: bytes of shared memory.
        spills: bytes a thread that registers do not hold.
        warps: of a program.
        grid: most programs of one launch along x, y and z.
    """

    kernel: str
    op: str
    profile: str
    target: str
    verdict: Verdict
    rules: Mapping[str, Judgement]
    reason: str = ""
    shared: int | None = None
    spills: int | None = None
    warps: int | None = None
    grid: tuple[int, int, int] | None = None

    @property
    def good(self) -> bool:
        """Whether nothing needs looking at."""
        return self.verdict in (Verdict.CLEAN, Verdict.KNOWN)

    @property
    def broken(self) -> dict[str, tuple[str, ...]]:
        """The rules that are broken, and by what."""
        return {
            name: found.lines for name, found in self.rules.items() if found.status is Status.BROKEN
        }

    def to_dict(self) -> dict[str, object]:
        """Plain data, for JSON: each rule with its status."""
        rules = {
            name: {"status": found.status.value}
            | ({"lines": list(found.lines)} if found.lines else {})
            | ({"why": found.why} if found.why else {})
            for name, found in self.rules.items()
        }
        grid = None if self.grid is None else list(self.grid)
        return {**vars(self), "verdict": self.verdict.value, "rules": rules, "grid": grid}


@dataclass(frozen=True)
class Case:
    """One compilation.

    Attributes:
        kernel: its name.
        op, profile: what it is for.
        target: the chip.
    """

    kernel: str
    op: str
    profile: str
    target: Target


def own_kernels(
    package: str = "glm5_hal.kernels.triton", file: str = "portable.yaml"
) -> Sequence[Kernel]:
    """The project's Triton kernels with the tiles of a table, a YAML file of a package."""
    from glm5_hal.kernels.triton.catalogue import kernels
    from glm5_hal.kernels.triton.target import read_target

    return kernels(read_target(package, file))


def bad_kernels() -> Sequence[Kernel]:
    """The kernels that break a rule on purpose."""
    from glm5_hal.conformance.audit.bad import BAD

    return BAD


def require_triton() -> str:
    """The installed Triton's version.

    Raises:
        UnusableError: there is none that compiles.
    """
    if os.environ.get("TRITON_INTERPRET", "0") not in ("", "0"):
        raise UnusableError(
            "TRITON_INTERPRET is set: kernels would be interpreted, and the audit compiles them; "
            "unset it"
        )
    try:
        import triton
    except ImportError as error:
        raise UnusableError(
            f"the audit compiles with Triton, which cannot be imported ({error}); "
            "install glm5-hal[triton]"
        ) from error
    return str(triton.__version__)


def cases(
    source: KernelSource, targets: Sequence[Target], parts: Collection[str] = ()
) -> list[Case]:
    """Every kernel on every target, or on those that it is meant for (`bad.BadKernel.targets`).

    Args:
        source: lists the kernels.
        targets: for which they are compiled.
        parts: of kernel names; empty takes all.

    Raises:
        UnusableError: no Triton here.
        AskedError: no kernel has such a part in its name, or none is meant for these targets.
    """
    require_triton()
    kernels = source()
    for part in parts:
        if not any(part in kernel.name for kernel in kernels):
            ops = ", ".join(dict.fromkeys(kernel.op for kernel in kernels))
            raise AskedError(f"no kernel has {part!r} in its name; they begin with: {ops}")
    found = [
        Case(kernel.name, kernel.op, kernel.profile.value, target)
        for kernel in kernels
        if not parts or any(part in kernel.name for part in parts)
        for target in targets
        if target.name in getattr(kernel, "targets", (target.name,))
    ]
    if not found:
        raise AskedError(f"no such kernel is meant for {', '.join(t.name for t in targets)}")
    return found


def audit(source: KernelSource, work: Sequence[Case], workers: int = 2) -> Iterator[Finding]:
    """Findings in the order of `work`, as they come.

    A compiler that takes its process down is judged to refuse the case: what was under way then
    is compiled again, one by one, each in a process of its own.
    """
    waiting = list(work)
    while waiting:
        with _pool(source, workers) as pool:
            futures = [pool.submit(_judge_one, case) for case in waiting]
            done = 0
            for future in futures:
                try:
                    found = future.result()
                except BrokenProcessPool:
                    break
                done += 1
                yield found
        # several may have been under way, and any of them at fault
        suspects, waiting = waiting[done : done + workers], waiting[done + workers :]
        for case in suspects:
            yield _alone(source, case)


def _alone(source: KernelSource, case: Case) -> Finding:
    with _pool(source, 1) as pool:
        future: Future[Finding] = pool.submit(_judge_one, case)
        try:
            return future.result()
        except BrokenProcessPool:
            return _refused(case, "the compiler ended its process")


def _pool(source: KernelSource, workers: int) -> ProcessPoolExecutor:
    context = get_context("spawn")
    return ProcessPoolExecutor(workers, context, initializer=_list, initargs=(source,))


_listed: dict[str, Kernel] = {}
"""A worker's kernels by name."""


def _list(source: KernelSource) -> None:
    _listed.update((kernel.name, kernel) for kernel in source())


def _judge_one(case: Case) -> Finding:
    return judge(_listed[case.kernel], case)


def judge(kernel: Kernel, case: Case) -> Finding:
    """Compile one kernel for one target and hold the code against the rules."""
    code = compile_for(kernel, case.target)
    if isinstance(code, Refused):
        return _refused(case, code.reason)
    return _judged(case, code, {n: r.judge(code, kernel.profile) for n, r in RULES.items()})


def _judged(case: Case, code: Compiled, rules: Mapping[str, Judgement]) -> Finding:
    verdict = Verdict.CLEAN
    if any(found.status is Status.BROKEN for found in rules.values()):
        verdict = Verdict.BROKEN
    elif case.target.expected == "refused":
        verdict = Verdict.SURPRISE
    return Finding(
        *(case.kernel, case.op, case.profile, case.target.name, verdict, rules),
        shared=code.shared,
        spills=code.spills,
        warps=int(code.options["num_warps"]),
        grid=code.grid,
    )


def _refused(case: Case, reason: str) -> Finding:
    known = case.target.expected == "refused"
    verdict = Verdict.KNOWN if known else Verdict.REFUSED
    rules = dict.fromkeys(RULES, Judgement(Status.UNSEEN, why="the compiler made no code"))
    return Finding(
        *(case.kernel, case.op, case.profile, case.target.name, verdict, rules), reason=reason
    )


def missed(findings: Sequence[Finding]) -> list[str]:
    """Bad kernels that their rule did not find, or that a rule found which they do not concern."""
    from glm5_hal.conformance.audit.bad import BAD

    meant = {bad.name: bad for bad in BAD}
    problems = []
    for found in findings:
        bad, broken = meant[found.kernel], set(found.broken)
        if bad.breaks not in broken or broken - {bad.breaks, *bad.also}:
            said = ", ".join(found.broken) or found.reason or "nothing"
            problems.append(
                f"{found.kernel} on {found.target} should break {bad.breaks}; found: {said}"
            )
    return problems


def tiled(table: str) -> KernelSource:
    """The project's kernels with the tiles of ``PACKAGE:FILE``, such as a backend's.

    Raises:
        AskedError: no such table.
    """
    from glm5_hal.kernels.triton.target import read_target

    package, _, file = table.partition(":")
    try:
        read_target(package, file)
    except (ImportError, OSError, ValueError) as error:
        raise AskedError(
            f"no table of tiles {table!r} ({error}); name PACKAGE:FILE, such as "
            "glm5_hal.kernels.triton:portable.yaml"
        ) from error
    return functools.partial(own_kernels, package, file)
