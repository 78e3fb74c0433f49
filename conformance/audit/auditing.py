"""Judging kernels on targets: every rule on every piece of code."""

import enum
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context

from glm5_hal.conformance.audit.compiler import Kernel, Refused, compile_for
from glm5_hal.conformance.audit.rules import RULES
from glm5_hal.conformance.audit.targets import Target, chosen
from glm5_hal.conformance.errors import AskedError, UnusableError

KernelSource = Callable[[], Sequence[Kernel]]
"""Lists kernels; importable by name, so that worker processes can list them again."""


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
        broken: rule to the lines that break it.
        reason: why it was refused.
        shared: bytes of shared memory.
        spills: registers that did not fit.
    """

    kernel: str
    op: str
    profile: str
    target: str
    verdict: Verdict
    broken: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    reason: str = ""
    shared: int | None = None
    spills: int | None = None

    @property
    def good(self) -> bool:
        """Whether nothing needs looking at."""
        return self.verdict in (Verdict.CLEAN, Verdict.KNOWN)

    def to_dict(self) -> dict[str, object]:
        """Plain data, for JSON."""
        return {
            **vars(self),
            "verdict": self.verdict.value,
            "broken": {rule: list(lines) for rule, lines in self.broken.items()},
        }


def own_kernels() -> Sequence[Kernel]:
    """The project's Triton kernels."""
    from glm5_hal.kernels.triton.catalogue import kernels

    return kernels()


def bad_kernels() -> Sequence[Kernel]:
    """The kernels that break a rule on purpose."""
    from glm5_hal.conformance.audit.bad import BAD

    return BAD


def audit(
    source: KernelSource,
    targets: Sequence[Target],
    names: Sequence[str] = (),
    workers: int = 2,
) -> Iterator[Finding]:
    """Findings as they come, kernel by kernel.

    Args:
        source: lists the kernels.
        targets: for which they are compiled.
        names: parts of kernel names; empty takes all.
        workers: processes.

    Raises:
        UnusableError: no Triton here.
        AskedError: no kernel of such a name.
    """
    require_triton()
    kernels = [k.name for k in source() if not names or any(part in k.name for part in names)]
    if not kernels:
        raise AskedError(f"no kernel is named like {', '.join(names)}")
    work = [(source, name, target) for name in kernels for target in targets]
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(_judge_one, work)


def require_triton() -> str:
    """The installed Triton's version.

    Raises:
        UnusableError: there is none.
    """
    try:
        import triton
    except ImportError as error:
        raise UnusableError(
            f"the audit compiles with Triton, which cannot be imported ({error}); "
            "install glm5-hal[triton]"
        ) from error
    return str(triton.__version__)


def _judge_one(work: tuple[KernelSource, str, Target]) -> Finding:
    source, name, target = work
    (kernel,) = (kernel for kernel in source() if kernel.name == name)
    return judge(kernel, target)


def judge(kernel: Kernel, target: Target) -> Finding:
    """Compile one kernel for one target and hold the code against the rules."""
    code = compile_for(kernel, target)
    about = (kernel.name, kernel.op, kernel.profile.value, target.name)
    known = target.expected == "refused"
    if isinstance(code, Refused):
        verdict = Verdict.KNOWN if known else Verdict.REFUSED
        return Finding(*about, verdict, reason=code.reason)
    broken = {
        name: tuple(rule.check(code))
        for name, rule in RULES.items()
        if rule.applies(kernel.profile)
    }
    broken = {name: lines for name, lines in broken.items() if lines}
    verdict = Verdict.BROKEN if broken else Verdict.SURPRISE if known else Verdict.CLEAN
    return Finding(*about, verdict, broken, shared=code.shared, spills=code.spills)


def missed(workers: int = 2) -> list[str]:
    """Bad kernels that their own rule does not find, on each target where it should."""
    require_triton()
    from glm5_hal.conformance.audit.bad import BAD

    found = {}
    for target in sorted({name for bad in BAD for name in bad.targets}):
        names = [bad.name for bad in BAD if target in bad.targets]
        for finding in audit(bad_kernels, chosen((target,)), names, workers):
            found[finding.kernel, target] = finding.broken
    return [
        f"{bad.name} on {target} does not break {bad.breaks}"
        for bad in BAD
        for target in bad.targets
        if bad.breaks not in found[bad.name, target]
    ]
