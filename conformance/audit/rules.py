"""What the code of a kernel may not hold, as numbered requirements."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from glm5_hal import Numerics
from glm5_hal.conformance.audit.compiler import Compiled
from glm5_hal.contract import Requirement

SPILL_BOUND = 64
"""Registers, or bytes of local memory, that may spill."""

Check = Callable[[Compiled], Iterator[str]]


@dataclass(frozen=True)
class Rule:
    """One requirement on generated code.

    Attributes:
        requirement: its id, its sentence, and the profile that it holds in.
        check: yields what breaks it: lines of code, or sentences.
    """

    requirement: Requirement
    check: Check

    def applies(self, profile: Numerics) -> bool:
        """Whether kernels of a profile must keep it."""
        return self.requirement.profile in (None, profile)


RULES: dict[str, Rule] = {}
"""Every rule by id."""


def _rule(name: str, text: str, profile: Numerics | None = None) -> Callable[[Check], Check]:
    def enter(check: Check) -> Check:
        RULES[name] = Rule(Requirement(name, text, profile), check)
        return check

    return enter


def _lines(text: str, pattern: str) -> Iterator[str]:
    for line in text.splitlines():
        if re.search(pattern, line):
            yield " ".join(line.split(";")[0].split("!dbg")[0].split())[:120]


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
    yield from _lines(code.llir, r"\b(fmul|fadd|fsub) .*\b(contract|fast|reassoc)\b")
    yield from _lines(code.llir, r"@llvm\.fmuladd\.f")
    # without .rn the assembler is free to contract the two
    yield from _lines(code.assembly, r"^\s+(@!?%\w+ )?(fma|mad)\.\w*\.?(rn\.)?f(32|64|16)")
    yield from _lines(code.assembly, r"^\s+(@!?%\w+ )?(add|sub|mul)\.f32")
    yield from _fma_of_nothing(code)


def _fma_of_nothing(code: Compiled) -> Iterator[str]:
    """fma in LLVM code that no exact division or root explains."""
    places = {m[1] for m in re.finditer(r"amdgcn\.rsq\.f32.*!dbg (!\d+)", code.llir)}
    for match in re.finditer(r"^.*call .*@llvm\.fma\.f32\(.*!dbg (!\d+).*$", code.llir, re.M):
        if match[1] not in places:
            yield " ".join(match[0].split("!dbg")[0].split())[:120]
    explained = "fdiv" in code.llir or bool(places)
    if not explained:
        yield from _lines(code.assembly, r"^\s+v_(pk_)?(fma|fmac|mac|mad)_f32")


@_rule(
    "AUDIT-DIVIDE-1",
    "Exact kernels divide and take roots by the correctly rounded operations only.",
    Numerics.EXACT,
)
def _divide(code: Compiled) -> Iterator[str]:
    yield from _lines(code.ttir, r"\barith\.divf\b|\bmath\.(sqrt|rsqrt)\b")
    yield from _lines(code.assembly, r"\b(div\.(full|approx)|rcp\.approx|r?sqrt\.approx)\b")
    yield from _lines(code.llir, r"\bfdiv\b.*\b(fast|arcp|afn)\b|!fpmath")


@_rule(
    "AUDIT-FUNCTION-1",
    "Exact kernels call no exponential, logarithm or trigonometric function of the chip.",
    Numerics.EXACT,
)
def _function(code: Compiled) -> Iterator[str]:
    names = r"exp|exp2|log|log2|sin|cos|tanh|erf|absf_approx|powf"
    yield from _lines(code.ttir, rf"\bmath\.({names})\b|tt\.extern_elementwise")
    yield from _lines(code.assembly, r"\b(ex2|lg2|sin|cos|tanh)\.approx")
    yield from _lines(code.assembly, r"^\s+v_(exp|log|sin|cos)_f32")


@_rule(
    "AUDIT-FLUSH-1",
    "Exact kernels do not flush subnormal numbers to zero.",
    Numerics.EXACT,
)
def _flush(code: Compiled) -> Iterator[str]:
    yield from _lines(code.assembly, r"\.ftz\.f(32|16)|\.ftz\.bf16")
    yield from _lines(code.assembly, r"amdhsa_float_denorm_mode_32 [012]\b")


@_rule("AUDIT-ATOMIC-1", "No kernel adds floats atomically: the order would be anybody's.")
def _atomic(code: Compiled) -> Iterator[str]:
    yield from _lines(code.ttir, r"tt\.atomic_rmw f(add|max|min)")
    yield from _lines(code.assembly, r"\b(atom|red)\.[\w.]*\.add[\w.]*\.(f32|f64|f16|bf16)")
    yield from _lines(code.assembly, r"^\s+\w+_atomic_(pk_)?add_(f32|f64|f16|bf16)")


@_rule(
    "AUDIT-INT8-1",
    "Products of int8 are added as integers, on integer units, never through floats.",
)
def _int8(code: Compiled) -> Iterator[str]:
    wanted = len(re.findall(r"tt\.dot .*xi8", code.ttir))
    if not wanted:
        return
    yield from _lines(code.ttgir, r"arith\.sitofp .*xi8")
    integers = r"s32\.s8\.s8|s32\.u8\.s8|kind::i8|dp4a|_i32_\w*i?u?8|v_dot4"
    if not re.search(integers, code.assembly):
        yield f"{wanted} int8 products and no integer matrix instruction in the assembly"


@_rule("AUDIT-TF32-1", "float32 products are taken at full precision.")
def _tf32(code: Compiled) -> Iterator[str]:
    yield from _lines(code.ttir, r"tt\.dot .*inputPrecision = (?!ieee)\w+.*xf32>? ?\*")
    yield from _lines(code.assembly, r"\.tf32|_xf32")


@_rule("AUDIT-SPILL-1", f"At most {SPILL_BOUND} registers or bytes spill to memory.")
def _spill(code: Compiled) -> Iterator[str]:
    if code.spills is not None and code.spills > SPILL_BOUND:
        yield f"{code.spills} spilled"


@_rule("AUDIT-SHARED-1", "Shared memory stays within what one block of the target may use.")
def _shared(code: Compiled) -> Iterator[str]:
    if code.shared > code.target.shared:
        yield f"{code.shared:,} bytes, the target has {code.target.shared:,}"
