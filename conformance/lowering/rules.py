"""What lowered kernels may not hold, as numbered requirements."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

from glm5_hal import Numerics
from glm5_hal.conformance.audit.rules import Judgement, Status
from glm5_hal.conformance.lowering.front_end import Restrictions
from glm5_hal.conformance.lowering.liveness import alive
from glm5_hal.contract import Requirement


@dataclass(frozen=True)
class Lowered:
    """A kernel that a front end took.

    Attributes:
        ttir: before any target is known.
        linalg: what the front end made of it.
        grid: most programs of one launch along x, y and z.
        limits: what the vendor's documentation rules out.
        doubled: whether loads have a second buffer, as they do by default.
    """

    ttir: str
    linalg: str
    grid: tuple[int, int, int]
    limits: Restrictions
    doubled: bool = True

    @property
    def mode(self) -> str:
        """The cores that linalg asks for: a word of the front end's."""
        found = re.search(r'\bmix_mode = "(\w+)"', self.linalg)
        return found[1] if found else ""

    @cached_property
    def alive(self) -> int:
        """Bytes of tensors that are alive at once, at most; see `liveness.alive`."""
        return alive(self.linalg, self.limits.row)

    @property
    def notes(self) -> tuple[str, ...]:
        """What no rule forbids and a port should know."""
        calls = dict.fromkeys(re.findall(r"func\.func private @triton_([a-z]+)", self.linalg))
        found = [f"calls the vendor's {name}" for name in calls]
        if places := self.linalg.count("{ExtractedLoadOrStore"):
            found.append(f"elements one at a time: {places}")
        if not self.doubled:
            found.append("double buffering is off")
        return tuple(found)


Check = Callable[[Lowered], Iterator[str]]
Unseen = Callable[[Lowered], str | None]


@dataclass(frozen=True)
class Rule:
    """One requirement on lowered code.

    Attributes:
        requirement: its id, its sentence, and the profile that it holds in.
        check: yields what breaks it: lines of code, or sentences.
        unseen: why some code does not show what it asks for.
    """

    requirement: Requirement
    check: Check
    unseen: Unseen

    def judge(self, code: Lowered, profile: Numerics) -> Judgement:
        """Hold code of a kernel of one profile against it."""
        if self.requirement.profile not in (None, profile):
            return Judgement(Status.OUTSIDE, why=f"for {self.requirement.profile.value} kernels")
        if lines := tuple(dict.fromkeys(self.check(code))):
            return Judgement(Status.BROKEN, lines)
        if why := self.unseen(code):
            return Judgement(Status.UNSEEN, why=why)
        return Judgement(Status.PASSED)


RULES: dict[str, Rule] = {}
"""Every rule by id."""


def _never(code: Lowered) -> str | None:
    return None


def _rule(
    name: str, text: str, profile: Numerics | None = None, unseen: Unseen = _never
) -> Callable[[Check], Check]:
    def enter(check: Check) -> Check:
        RULES[name] = Rule(Requirement(name, text, profile), check, unseen)
        return check

    return enter


def _lines(text: str, pattern: str) -> Iterator[str]:
    for line in text.splitlines():
        if re.search(pattern, line):
            yield " ".join(line.split(" loc(")[0].split())[:120]


def _of_type(kinds: tuple[str, ...]) -> str:
    """Pattern of a tensor, pointer or number of one of the types."""
    return rf"(?:(?:\dx|<|: |, |-> |to )(?:{'|'.join(map(re.escape, kinds))}))(?![\w.])"


@_rule(
    "LOWER-GRID-1",
    "A launch has one dimension and no more programs than the chip takes.",
)
def _grid(code: Lowered) -> Iterator[str]:
    if code.grid[0] > code.limits.grid:
        yield f"{code.grid[0]:,} programs, the chip takes {code.limits.grid:,}"
    if code.grid[1:] != (1, 1):
        yield f"a grid of {' x '.join(map(str, code.grid))}"
    yield from _lines(code.ttir, r"\btt\.get_(program_id|num_programs) [yz]\b")


@_rule("LOWER-TYPE-1", "No value has a type that the chip has not.")
def _type(code: Lowered) -> Iterator[str]:
    for text in (code.ttir, code.linalg):
        yield from _lines(text, _of_type(code.limits.types))


@_rule(
    "LOWER-OPERATION-1",
    "No operation stands on a type on which the vendor's documentation rules it out.",
)
def _operation(code: Lowered) -> Iterator[str]:
    for name, kinds in code.limits.operations.items():
        where = "" if kinds == ("any",) else f".*{_of_type(kinds)}"
        yield from _lines(code.ttir, rf"\b{re.escape(name)}\b{where}")


@_rule(
    "LOWER-CALL-1",
    "Calls of functions that the front end leaves open go only to those that the vendor's "
    "documentation has.",
)
def _call(code: Lowered) -> Iterator[str]:
    for name in re.findall(r"func\.func private @(\w+)", code.linalg):
        if re.sub(r"^triton_|_\d+$", "", name) not in code.limits.functions:
            yield f"calls @{name}"


@_rule("LOWER-PERMUTE-1", "No axis of a tensor moves by more than one place in a transposition.")
def _permute(code: Lowered) -> Iterator[str]:
    for match in re.finditer(
        r"^.*\btt\.trans\b.*order = array<i32: ([\d, ]+)>.*$", code.ttir, re.M
    ):
        order = [int(axis) for axis in match[1].split(",")]
        if any(abs(axis - place) > 1 for place, axis in enumerate(order)):
            yield from _lines(match[0], "")


@_rule(
    "LOWER-ATOMIC-1",
    "In a loop stand only the atomic updates that the vendor's documentation allows there.",
)
def _atomic(code: Lowered) -> Iterator[str]:
    depth, loops = 0, list[int]()
    for line in code.ttir.splitlines():
        text = line.split(" loc(")[0].rstrip()
        depth -= text.lstrip().startswith("}")
        loops = [loop for loop in loops if loop <= depth]
        if found := re.search(r"\btt\.atomic_(?:rmw f?(\w+)|(cas))\b", text):
            kind = found[1] or found[2]
            if loops and kind not in code.limits.looped_atomics:
                yield from _lines(text, "")
        if text.endswith("{"):
            depth += 1
            if re.search(r"\bscf\.(for|while)\b", text):
                loops.append(depth)


@_rule(
    "LOWER-PRECISION-1",
    "Products of float32 are asked for at full precision, to the end.",
)
def _precision(code: Lowered) -> Iterator[str]:
    allowed = "|".join(code.limits.precisions)
    yield from _lines(code.ttir, rf"\btt\.dot .*inputPrecision = (?!{allowed}\b)\w+.*xf32> ?\*")
    asked = rf'input_precison = "(?!(?:{allowed})")'  # the vendor's spelling
    yield from _lines(code.linalg, rf"\blinalg\.(batch_)?matmul .*{asked}.*xf32>, ")


@_rule(
    "LOWER-INT8-1",
    "Products of int8 stay products of int8, added up as int32.",
)
def _int8(code: Lowered) -> Iterator[str]:
    product = r"\blinalg\.(?:batch_)?matmul .*ins\([^)]*xi8>, [^)]*xi8>\)"
    yield from _lines(code.linalg, product + r"(?!.*-> tensor<[\dx]+xi32>)")
    asked = len(re.findall(r"\btt\.dot .*: tensor<[\dx]+xi8>", code.ttir))
    made = len(re.findall(product, code.linalg))
    if asked > made:
        yield f"{asked} products of int8 in the kernel, {made} in linalg"


@_rule(
    "LOWER-FMA-1",
    "Exact kernels hold no contracted multiply-add, and no operation that may be rearranged.",
    Numerics.EXACT,
)
def _fma(code: Lowered) -> Iterator[str]:
    for text in (code.ttir, code.linalg):
        yield from _lines(text, r"\bmath\.fma\b|\bfastmath<(?!none)")


def _rounding(code: Lowered) -> str | None:
    counts = {name: code.linalg.count(f"{name} ") for name in ("arith.divf", "math.sqrt")}
    said = " and ".join(name for name, count in counts.items() if count)
    return f"linalg does not say how {said} is rounded" if said else None


@_rule(
    "LOWER-DIVIDE-1",
    "Exact kernels ask for correctly rounded division and roots, and linalg holds no more than "
    "these.",
    Numerics.EXACT,
    _rounding,
)
def _divide(code: Lowered) -> Iterator[str]:
    yield from _lines(code.ttir, r"\barith\.divf\b|\bmath\.(r?sqrt|cbrt)\b")
    yield from _lines(code.linalg, r"\bmath\.(rsqrt|cbrt)\b")
    for asked, made in (("tt.precise_divf", "arith.divf"), ("tt.precise_sqrt", "math.sqrt")):
        counts = code.ttir.count(f"{asked} "), code.linalg.count(f"{made} ")
        if counts[1] > counts[0]:
            yield f"{counts[0]} {asked} in the kernel, {counts[1]} {made} in linalg"


@_rule(
    "LOWER-FUNCTION-1",
    "Exact kernels hold no exponential, logarithm or trigonometric function of the chip.",
    Numerics.EXACT,
)
def _function(code: Lowered) -> Iterator[str]:
    names = r"exp|exp2|expm1|log|log2|log10|log1p|sin|cos|tan|tanh|erf|powf|fpowi"
    for text in (code.ttir, code.linalg):
        yield from _lines(text, rf"\bmath\.({names})\b|\btt\.extern_elementwise\b")


@_rule(
    "LOWER-SUM-1",
    "Exact kernels add up integers only: no reduction and no matrix product adds floats.",
    Numerics.EXACT,
)
def _sum(code: Lowered) -> Iterator[str]:
    yield from _lines(code.linalg, r"\blinalg\.(batch_)?matmul .*-> tensor<[\dx]+xb?f\d+>")
    yield from _lines(code.linalg, r"@triton_cum\w+\(.*xb?f\d+>")
    inside = False
    for line in code.linalg.splitlines():
        if re.search(r"\blinalg\.yield\b", line):
            inside = False
        elif inside and re.search(r"\barith\.(add|sub|mul)f\b", line):
            yield from _lines(line, "")
        elif re.search(r"\blinalg\.reduce\b", line):
            inside = True


@_rule(
    "LOWER-MEMORY-1",
    "The tensors that are alive at once fit the memory of a vector core, rows rounded up to "
    "whole units of it; half of it while loads have a second buffer.",
)
def _memory(code: Lowered) -> Iterator[str]:
    room = code.limits.buffered if code.doubled else code.limits.memory
    if code.alive > room:
        off = f"; {code.limits.memory:,} with {code.limits.doubling}=False" if code.doubled else ""
        yield f"{code.alive:,} bytes, there is room for {room:,}{off}"
