"""What amdgcn code makes of correctly rounded operations: no single instruction does them.

A division is a reciprocal that multiply-adds refine, a root likewise, and so is a division of
64-bit integers. So a multiply-add, a reciprocal or a root in the code of an exact kernel is no
fault as such: it is one where no such operation explains it. Counts are of the text as it stands.
"""

import re
from collections.abc import Iterator

from glm5_hal.conformance.audit.compiler import Compiled

DIVISION = 5
"""Multiply-adds of a float32 division, which ends in v_div_fixup_f32."""
ROOT = 5
"""Multiply-adds of a float32 root, in LLVM code at the place of its amdgcn.rsq.f32."""
LONG_DIVISION = 2
"""Multiply-adds of a division of 64-bit integers, fused or not, beside its one reciprocal."""

_FMA = re.compile(r"\bv_(?P<packed>pk_)?(?:dual_)?fma\w*_b?f(?:16|32|64)(?:_|\b)")
_LLVM_FMA = re.compile(r"^.*\bcall\b.*@llvm\.fma\.\w+\(.*!dbg (!\d+).*$", re.M)
_LLVM_ROOT = re.compile(r"@llvm\.(?:amdgcn\.(?:rsq|sqrt)|sqrt)\.\w+\(.*!dbg (!\d+)")


def is_amdgcn(code: Compiled) -> bool:
    """Whether the assembly is amdgcn."""
    return code.target.backend == "hip"


def _count(pattern: str, text: str) -> int:
    return len(re.findall(pattern, text))


def _divisions(code: Compiled) -> int:
    return _count(r"\bv_div_fixup_f32\b", code.assembly)


def _long_divisions(code: Compiled) -> int:
    """Divisions of 64-bit integers that use a float reciprocal; some need none."""
    spare = _count(r"\bv_rcp_f32", code.assembly) - _divisions(code)
    return max(0, min(spare, _count(r"= [su](?:div|rem) i64\b", code.llir)))


def _by_place(pattern: re.Pattern[str], code: Compiled) -> dict[str, int]:
    counts: dict[str, int] = {}
    for match in pattern.finditer(code.llir):
        counts[match[1]] = counts.get(match[1], 0) + 1
    return counts


def unexplained_fma(code: Compiled) -> Iterator[str]:
    """Multiply-adds that no division and no root explains: lines of LLVM code, or a count."""
    roots = _by_place(_LLVM_ROOT, code) if is_amdgcn(code) else {}
    explained = 0
    for match in _LLVM_FMA.finditer(code.llir):
        if roots.get(match[1]):
            explained += 1
        else:
            yield " ".join(match[0].split("!dbg")[0].split())[:120]
    if not is_amdgcn(code):
        return
    held = sum(2 if m["packed"] else 1 for m in _FMA.finditer(code.assembly))
    explained = min(explained, ROOT * sum(roots.values()))
    explained += DIVISION * _divisions(code) + LONG_DIVISION * _long_divisions(code)
    if held > explained:
        yield f"{held} multiply-adds in the assembly, divisions and roots explain {explained}"


def unexplained_mad(code: Compiled) -> Iterator[str]:
    """Multiply-adds that round twice, and flush, other than those of a division of integers."""
    held = _count(r"\bv_(?:pk_)?(?:mac|mad)\w*_f(?:16|32)(?:_|\b)", code.assembly)
    explained = LONG_DIVISION * _long_divisions(code)
    if held > explained:
        yield f"{held} v_mac or v_mad in the assembly, integer divisions explain {explained}"


def unexplained_reciprocals(code: Compiled) -> Iterator[str]:
    """Reciprocals and roots of the chip that nothing refines."""
    if not is_amdgcn(code):
        return
    held = _count(r"\bv_rcp_f32", code.assembly)
    explained = _divisions(code) + _long_divisions(code)
    if held > explained:
        yield f"{held} v_rcp_f32 in the assembly, divisions explain {explained}"
    refining = _by_place(_LLVM_FMA, code)
    for place, roots in _by_place(_LLVM_ROOT, code).items():
        if refining.get(place, 0) != ROOT * roots:
            yield f"{roots} roots in the LLVM code at {place} that no multiply-adds refine"
    held = _count(r"\bv_(?:rsq|sqrt)_f32", code.assembly)
    explained = sum(_by_place(_LLVM_ROOT, code).values())
    if held > explained:
        yield f"{held} v_rsq_f32 and v_sqrt_f32 in the assembly, LLVM code has {explained}"
