"""What the code of a kernel may not hold, as numbered requirements."""

import enum
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from glm5_hal import Numerics
from glm5_hal.conformance.audit.addresses import computed_wide
from glm5_hal.conformance.audit.compiler import Compiled
from glm5_hal.conformance.audit.expansions import (
    unexplained_fma,
    unexplained_mad,
    unexplained_reciprocals,
)
from glm5_hal.contract import Requirement

SPILL_BOUND = 64
"""Bytes of a thread's registers that may spill."""

Check = Callable[[Compiled], Iterator[str]]
Outside = Callable[[Compiled], str | None]


class Status(enum.Enum):
    """What a rule says of one piece of code."""

    PASSED = "passed"
    BROKEN = "broken"
    OUTSIDE = "does not apply"
    """The rule is about something that the kernel does not hold, or about the other profile."""
    UNSEEN = "not judged"
    """There is no code, or it does not show what the rule asks for."""


@dataclass(frozen=True)
class Judgement:
    """One rule on one kernel for one target.

    Attributes:
        status: in one word.
        lines: what breaks the rule: lines of code, or sentences.
        why: the reason, where nothing was judged.
    """

    status: Status
    lines: tuple[str, ...] = ()
    why: str = ""


@dataclass(frozen=True)
class Rule:
    """One requirement on generated code.

    Attributes:
        requirement: its id, its sentence, and the profile that it holds in.
        check: yields what breaks it: lines of code, or sentences.
        outside: why it does not apply to some code in which it finds nothing.
        unseen: why some code does not show what it asks for.
    """

    requirement: Requirement
    check: Check
    outside: Outside
    unseen: Outside

    def judge(self, code: Compiled, profile: Numerics) -> Judgement:
        """Hold code of a kernel of one profile against it."""
        if self.requirement.profile not in (None, profile):
            return Judgement(Status.OUTSIDE, why=f"for {self.requirement.profile.value} kernels")
        if lines := tuple(dict.fromkeys(self.check(code))):
            return Judgement(Status.BROKEN, lines)
        if why := self.unseen(code):
            return Judgement(Status.UNSEEN, why=why)
        if why := self.outside(code):
            return Judgement(Status.OUTSIDE, why=why)
        return Judgement(Status.PASSED)


RULES: dict[str, Rule] = {}
"""Every rule by id."""


def _never(code: Compiled) -> str | None:
    return None


def _rule(
    name: str,
    text: str,
    profile: Numerics | None = None,
    outside: Outside = _never,
    unseen: Outside = _never,
) -> Callable[[Check], Check]:
    def enter(check: Check) -> Check:
        RULES[name] = Rule(Requirement(name, text, profile), check, outside, unseen)
        return check

    return enter


def _lines(text: str, pattern: str) -> Iterator[str]:
    if not re.search(pattern, text):  # as a rule: much faster than line by line
        return
    for line in text.splitlines():
        if re.search(pattern, line):
            yield _short(line)


def _short(line: str) -> str:
    return " ".join(re.split(r"!dbg|;| loc\(", line)[0].split())[:120]


@_rule(
    "AUDIT-FMA-1",
    "Exact kernels hold no contracted multiply-add of floats, and no addition or multiplication "
    "that an assembler may still contract.",
    Numerics.EXACT,
)
def _fma(code: Compiled) -> Iterator[str]:
    if code.options.get("enable_fp_fusion"):
        yield "compiled with enable_fp_fusion"
    yield from _lines(code.ttir, r"\bmath\.fma\b")
    yield from _lines(code.llir, r"\b(fmul|fadd|fsub|fneg|fdiv) .*\b(contract|fast|reassoc)\b")
    yield from _lines(code.llir, r"@llvm\.fmuladd\.")
    yield from _lines(code.assembly, r"\b(fma|mad)\.[a-z.]*\bb?f(16|32|64)")
    # without a rounding mode the assembler is free to contract the two
    yield from _lines(code.assembly, r"\b(add|sub|mul)\.(ftz\.|sat\.)*b?f(16|32|64)")
    yield from _lines(code.assembly, r"\bv_dot\w*_b?f(16|32)")
    yield from unexplained_fma(code)


@_rule(
    "AUDIT-SUM-1",
    "Exact kernels add up integers only: no reduction, scan or matrix product adds floats.",
    Numerics.EXACT,
    lambda code: None if _adds_up(code) else "no reduction, scan or matrix product in it",
)
def _sum(code: Compiled) -> Iterator[str]:
    yield from _lines(code.ttir, r"\btt\.dot(_scaled)?\b.*-> tensor<[\dx]+b?f\d+")
    yield from _lines(code.assembly, r"\bv_s?mfma_b?f\d+|mma\S*\.(f16|f32)\.|kind::(f16|f8|tf32)")
    inside = False
    for line in code.ttir.splitlines():
        if re.search(r"\btt\.(reduce|scan)\.return\b", line):
            inside = False
        elif inside and re.search(r"\barith\.(add|sub|mul|div)f\b|\bmath\.fma\b", line):
            yield _short(line)
        elif re.search(r'"tt\.(reduce|scan)"', line):
            inside = True


def _adds_up(code: Compiled) -> bool:
    return re.search(r"\btt\.(reduce|scan|dot|dot_scaled)\b", code.ttir) is not None


@_rule(
    "AUDIT-DIVIDE-1",
    "Exact kernels divide and take roots by the correctly rounded operations only.",
    Numerics.EXACT,
)
def _divide(code: Compiled) -> Iterator[str]:
    yield from _lines(code.ttir, r"\barith\.divf\b|\bmath\.(sqrt|rsqrt)\b")
    yield from _lines(code.assembly, r"\b(div\.full|(div|rcp|sqrt|rsqrt)\.approx)\b")
    yield from _lines(code.llir, r"\bfdiv\b.*\b(fast|arcp|afn)\b|!fpmath")
    yield from unexplained_reciprocals(code)


@_rule(
    "AUDIT-FUNCTION-1",
    "Exact kernels call no exponential, logarithm or trigonometric function of the chip, and no "
    "function of a vendor's library.",
    Numerics.EXACT,
)
def _function(code: Compiled) -> Iterator[str]:
    names = r"exp|exp2|expm1|log|log2|log10|log1p|sin|cos|tan|tanh|erf|powf|fpowi|cbrt"
    yield from _lines(code.ttir, rf"\bmath\.({names})\b|\btt\.extern_elementwise\b")
    yield from _lines(code.assembly, r"\b(ex2|lg2|sin|cos|tanh)\.approx")
    yield from _lines(code.assembly, r"\bv_(exp|log|sin|cos)_(f16|f32)")


@_rule(
    "AUDIT-FLUSH-1",
    "Exact kernels do not flush subnormal numbers to zero.",
    Numerics.EXACT,
)
def _flush(code: Compiled) -> Iterator[str]:
    yield from _lines(code.assembly, r"\.ftz\b")
    yield from _lines(code.assembly, r"amdhsa_float_denorm_mode_(32|16_64) [012]\b")
    yield from unexplained_mad(code)
    yield from _lines(code.assembly, r"\bs_denorm_mode\b|\bs_setreg\w*\b.*\bHW_REG_MODE\b")


@_rule("AUDIT-ATOMIC-1", "No kernel updates floats atomically: the order would be anybody's.")
def _atomic(code: Compiled) -> Iterator[str]:
    yield from _lines(code.ttir, r"\btt\.atomic_rmw f(add|max|min)\b")
    yield from _lines(code.assembly, r"\b(atom|red)\.[\w.:]*\.add[\w.]*\.b?f(16|32|64)")
    yield from _lines(code.assembly, r"\b\w+_atomic_(pk_)?add_b?f(16|32|64)")


@_rule(
    "AUDIT-ATOMIC-2",
    "No kernel uses the value that an atomic operation returns: it tells who came first.",
    outside=lambda code: None if "tt.atomic_" in code.ttir else "no atomic operation in it",
)
def _ticket(code: Compiled) -> Iterator[str]:
    for match in re.finditer(r"^.*?(%\w+) = tt\.atomic_(?:rmw|cas)\b.*$", code.ttir, re.M):
        uses = re.findall(rf"{re.escape(match[1])}\b", code.ttir)
        if len(uses) > 1:
            yield _short(match[0])


@_rule(
    "AUDIT-INT8-1",
    "Products of int8 are added as integers, on integer matrix units, never through floats.",
    outside=lambda code: None if _dots(code.ttir) & {"i8"} else "no int8 product in it",
)
def _int8(code: Compiled) -> Iterator[str]:
    wanted = _dots(code.ttir)
    if "i8" not in wanted:
        return
    yield from _lines(code.ttgir, r"\barith\.(si|ui)tofp\b.*xi8\b")
    for kind in sorted(_dots(code.ttgir) - wanted):
        yield f"the target's code multiplies {kind}, the kernel {', '.join(sorted(wanted))}"
    yield from _lines(code.ttgir, rf"{_DOT}.*xi8, .*\bparent = #blocked")
    units = r"mma\S*\.s32\.s8\.s8\b|kind::i8\b|\bv_s?mfma_i32_\w*i8\b|\bv_wmma_i32_\w*iu8\b"
    if not re.search(units, code.assembly):
        yield "int8 products and no integer matrix instruction in the assembly"


_DOT = r"\b(?:tt\.dot|ttng\.warp_group_dot|ttng\.tc_gen5_mma)\b"


def _dots(text: str) -> set[str]:
    """Types of the numbers that matrix products take, on the left."""
    shape = r"(?:tensor|memdesc)<[\dx]*x"
    return set(re.findall(rf"{_DOT}.*? : !?(?:ttg\.)?{shape}(\w+)", text))


@_rule(
    "AUDIT-INT64-1",
    "64-bit integers are addresses and nothing else: chips compute with them slowly, in 32 bits "
    "without a word, or not at all.",
    outside=lambda code: None if "i64" in code.ttir else "no 64-bit integer in it",
)
def _int64(code: Compiled) -> Iterator[str]:
    yield from map(_short, computed_wide(code.ttir))


@_rule(
    "AUDIT-TF32-1",
    "float32 products are taken at full precision.",
    outside=lambda code: None if "f32" in _dots(code.ttir) else "no float32 product in it",
)
def _tf32(code: Compiled) -> Iterator[str]:
    yield from _lines(code.ttir, r"\btt\.dot .*inputPrecision = (?!ieee)\w+.*xf32>? ?\*")
    yield from _lines(code.assembly, r"\.tf32\b|kind::tf32\b|_xf32\b")


@_rule(
    "AUDIT-SPILL-1",
    f"At most {SPILL_BOUND} bytes a thread spill to memory.",
    unseen=lambda code: None if code.spills is not None else "the assembler does not tell",
)
def _spill(code: Compiled) -> Iterator[str]:
    if code.spills is not None and code.spills > SPILL_BOUND:
        yield f"{code.spills} bytes a thread"


@_rule(
    "AUDIT-SHARED-1",
    "Shared memory stays within what one block of the target may use, and within what the table "
    "of tiles promises.",
)
def _shared(code: Compiled) -> Iterator[str]:
    for whose, limit in (("target", code.target.shared), ("table", code.promised)):
        if limit is not None and code.shared > limit:
            yield f"{code.shared:,} bytes, the {whose} has {limit:,}"


@_rule("AUDIT-THREADS-1", "A program has no more threads than a block of the target may have.")
def _threads(code: Compiled) -> Iterator[str]:
    warps = int(code.options["num_warps"])
    if warps * code.target.warp_size > code.target.threads:
        yield (
            f"{warps} warps of {code.target.warp_size} threads, "
            f"a block has {code.target.threads:,} threads"
        )


@_rule(
    "AUDIT-GRID-1",
    "The largest launch stays within the target's grid; a kernel that is launched in parts adds "
    "the number of the part's first program to its own, and does not ask how many there are.",
)
def _grid(code: Compiled) -> Iterator[str]:
    for axis, most, limit in zip("xyz", code.grid, code.target.grid, strict=True):
        if most > limit:
            yield f"{most:,} programs along {axis}, the target takes {limit:,}"
    if not re.search(r"\(%first: i32\b", code.ttir):
        return
    yield from _lines(code.ttir, r"\btt\.get_num_programs\b")
    for name in re.findall(r"(%\w+) = tt\.get_program_id x\b", code.ttir):
        sum_of = rf"= arith\.addi (%first, {name}|{name}, %first) "
        for line in code.ttir.splitlines():
            uses = re.search(rf"{name}\b(?! = )", line)
            if uses and not re.search(sum_of, line):
                yield _short(line)
