"""64-bit integers of a kernel that are no addresses.

The text is TTIR, one operation a line, before any target is known. An address begins as 32-bit
numbers that are widened; it is added to a pointer, or compared to a bound.
"""

import re
from collections.abc import Iterable, Iterator

_WIDE = re.compile(r"(?:\b|x)[su]?i64\b")
_LINE = re.compile(r"^\s*(?P<name>%\w+) = (?P<op>[\w.]+)(?P<operands>.*?) : ")
_VALUE = re.compile(r"%\w+")
_MAKING = frozenset(
    [
        *("arith.constant", "arith.extsi", "arith.addi", "arith.subi", "arith.muli"),
        *("arith.divsi", "tt.splat", "tt.broadcast", "tt.expand_dims"),
    ]
)
"""Operations that addresses are made by."""


def computed_wide(ttir: str) -> Iterator[str]:
    """Lines that compute with 64-bit integers of which no address is made."""
    made: dict[str, tuple[str, list[str]]] = {}
    compared: list[tuple[str, list[str]]] = []
    wanted: list[str] = []
    for line in ttir.splitlines():
        text = line.split(" loc(")[0]
        if not _WIDE.search(text) or "tt.func" in text:
            continue
        found = _LINE.match(text)
        operands = _VALUE.findall(found["operands"]) if found else []
        op = found["op"] if found else ""
        if op == "tt.addptr":
            wanted += operands[1:]
        elif op == "arith.cmpi":
            compared.append((text, operands))
        elif found and op in _MAKING:
            made[found["name"]] = text, operands
        else:
            yield text
    addresses = _reached(wanted, made)
    for text, operands in compared:  # a bound is widened to be compared to an address
        if addresses.isdisjoint(operands):
            yield text
        else:
            addresses |= _reached(operands, made)
    yield from (
        text
        for name, (text, _) in made.items()
        if name not in addresses and "arith.constant" not in text
    )


def _reached(names: Iterable[str], made: dict[str, tuple[str, list[str]]]) -> set[str]:
    """Values that some are made of, these included."""
    found: set[str] = set()
    wanted = list(names)
    while wanted:
        name = wanted.pop()
        if name in made and name not in found:
            found.add(name)
            wanted += made[name][1]
    return found
