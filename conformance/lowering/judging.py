"""Lowering kernels and holding what comes out against the rules."""

import enum
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from glm5_hal.conformance.audit.auditing import KernelSource, require_triton
from glm5_hal.conformance.audit.compiler import Kernel
from glm5_hal.conformance.audit.rules import Judgement, Status
from glm5_hal.conformance.errors import AskedError, UnusableError
from glm5_hal.conformance.lowering.front_end import FrontEnd, Restrictions, read_restrictions
from glm5_hal.conformance.lowering.rules import RULES, Lowered


class Verdict(enum.Enum):
    """What was found of one kernel."""

    CLEAN = "ok"
    BROKEN = "broken"
    """A rule found something."""
    REFUSED = "refused"
    """The front end does not take it."""


@dataclass(frozen=True)
class Finding:
    """One kernel.

    Attributes:
        kernel, op, profile: what was lowered.
        verdict: in one word.
        rules: what each rule says of it.
        reason: why it was refused.
        mode: the cores that linalg asks for, as the front end calls them.
        alive: bytes of tensors that are alive at once.
        notes: what no rule forbids and a port should know.
    """

    kernel: str
    op: str
    profile: str
    verdict: Verdict
    rules: Mapping[str, Judgement] = field(
        default_factory=lambda: dict.fromkeys(
            RULES, Judgement(Status.UNSEEN, why="the front end made no code")
        )
    )
    reason: str = ""
    mode: str = ""
    alive: int | None = None
    notes: tuple[str, ...] = ()

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
        plain = {"verdict": self.verdict.value, "rules": rules, "notes": list(self.notes)}
        return {**vars(self), **plain}


def bad_kernels() -> Sequence[Kernel]:
    """The kernels that break a rule on purpose."""
    from glm5_hal.conformance.lowering.bad import BAD

    return BAD


def require(name: str, front_end: FrontEnd) -> str:
    """The version of a front end's compiler.

    Raises:
        UnusableError: it is not installed, or kernels would be interpreted.
    """
    require_triton()
    try:
        return front_end.version()
    except ImportError as error:
        raise UnusableError(
            f"the compiler of front end {name} is not installed ({error}); it may stand in the "
            "place of another Triton, so give it an environment of its own"
        ) from error


def chosen(source: KernelSource, parts: Sequence[str] = ()) -> list[Kernel]:
    """Kernels that have one of the parts in their names; every one where no part is given.

    Raises:
        AskedError: no kernel has such a part in its name.
    """
    kernels = source()
    for part in parts:
        if not any(part in kernel.name for kernel in kernels):
            ops = ", ".join(dict.fromkeys(kernel.op for kernel in kernels))
            raise AskedError(f"no kernel has {part!r} in its name; they begin with: {ops}")
    return [k for k in kernels if not parts or any(part in k.name for part in parts)]


def judge_all(front_end: FrontEnd, kernels: Sequence[Kernel]) -> Iterator[Finding]:
    """Findings in the order of the kernels, as they come."""
    limits = read_restrictions(front_end.restrictions)
    for kernel in kernels:
        yield judge(front_end, kernel, limits)


def judge(front_end: FrontEnd, kernel: Kernel, limits: Restrictions) -> Finding:
    """Lower one kernel and hold the code against the rules."""
    what = (kernel.name, kernel.op, kernel.profile.value)
    try:
        ttir, linalg = front_end.lower(kernel)
    except Exception as error:  # whatever a compiler throws is its verdict
        return Finding(*what, Verdict.REFUSED, reason=_reason(error))
    doubled = bool(kernel.options.get(limits.doubling, True))
    code = Lowered(ttir, linalg, kernel.grid, limits, doubled)
    rules = {name: rule.judge(code, kernel.profile) for name, rule in RULES.items()}
    broken = any(found.status is Status.BROKEN for found in rules.values())
    return Finding(
        *what,
        Verdict.BROKEN if broken else Verdict.CLEAN,
        rules,
        mode=code.mode,
        alive=code.alive,
        notes=code.notes,
    )


def _reason(error: BaseException) -> str:
    """The first line of an error, or of what caused it: compilers wrap what a check says."""
    while error.__cause__ is not None and not isinstance(error, ValueError):
        error = error.__cause__
    said = [line for line in str(error).splitlines() if line.strip()]
    return (said[0].strip() if said else type(error).__name__)[:240]


def missed(findings: Sequence[Finding]) -> list[str]:
    """Bad kernels that broke another rule than theirs, or none, or were not refused."""
    from glm5_hal.conformance.lowering.bad import BAD

    meant = {bad.name: bad for bad in BAD}
    problems = []
    for found in findings:
        bad = meant[found.kernel]
        said = {Verdict.REFUSED.value} if found.verdict is Verdict.REFUSED else set(found.broken)
        if bad.breaks not in said or said - {bad.breaks, *bad.also}:
            problems.append(
                f"{found.kernel} should break {bad.breaks}; found: "
                f"{', '.join(sorted(said)) or 'nothing'} {found.reason}".rstrip()
            )
    return problems
