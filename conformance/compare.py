"""Comparing bytes, and saying what a difference looks like."""

from dataclasses import dataclass

import torch
from torch import Tensor

_WORD = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True)
class Difference:
    """Where and how two results differ.

    Attributes:
        output: which result of the op.
        index: first differing element, in row-major order.
        expected: its bits, hexadecimal, and value.
        found: likewise.
        ulp: distance of the two in units in the last place; None across NaN or for integers.
        differing: number of differing elements.
        total: number of elements.
        note: what the pattern suggests.
    """

    output: int
    index: tuple[int, ...]
    expected: str
    found: str
    ulp: int | None
    differing: int
    total: int
    note: str = ""

    def __str__(self) -> str:
        place = f"output {self.output} at {list(self.index)}" if self.index else "shape or dtype"
        ulp = "" if self.ulp is None else f", {self.ulp} ULP apart"
        share = f"; {self.differing} of {self.total} elements differ" if self.total else ""
        return f"{place}: expected {self.expected}, found {self.found}{ulp}{share}"


def words(tensor: Tensor) -> Tensor:
    """The elements' bits as integers of the same width."""
    return tensor.contiguous().view(_WORD[tensor.element_size()])


def first_difference(
    expected: tuple[Tensor, ...], found: tuple[Tensor, ...], *, any_nan: bool = True
) -> Difference | None:
    """First differing byte of two results, or None.

    Args:
        expected: results that are right by definition of the comparison.
        found: results to judge.
        any_nan: NaN with other bits count as equal.
    """
    if len(expected) != len(found):
        return _shape(0, f"{len(expected)} results", f"{len(found)} results")
    for number, (want, got) in enumerate(zip(expected, found, strict=True)):
        if want.shape != got.shape or want.dtype != got.dtype:
            return _shape(number, _form(want), _form(got))
        unequal = words(want) != words(got)
        if any_nan and want.is_floating_point():
            unequal &= ~(want.isnan() & got.isnan())
        count = int(unequal.sum())
        if count:
            place = tuple(int(i) for i in unequal.nonzero()[0])
            return Difference(
                output=number,
                index=place,
                expected=_bits(want[place]),
                found=_bits(got[place]),
                ulp=ulp_distance(want[place], got[place]),
                differing=count,
                total=want.numel(),
                note=_pattern(want, got, unequal),
            )
    return None


def _form(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _shape(number: int, expected: str, found: str) -> Difference:
    return Difference(number, (), expected, found, None, 0, 0)


def _bits(value: Tensor) -> str:
    width = value.element_size() * 2
    word = int(words(value.reshape(1))[0]) & ((1 << (4 * width)) - 1)
    return f"0x{word:0{width}x} ({value.item()!r})"


def ulp_distance(a: Tensor, b: Tensor) -> int | None:
    """Steps between two floats of one dtype on the line of representable values."""
    if not a.is_floating_point() or bool(a.isnan()) or bool(b.isnan()):
        return None
    return abs(_rank(a) - _rank(b))


def _rank(value: Tensor) -> int:
    word = int(words(value.reshape(1))[0])
    sign_bit = 1 << (value.element_size() * 8 - 1)
    return word if word >= 0 else -(word + sign_bit)


def _pattern(expected: Tensor, found: Tensor, unequal: Tensor) -> str:
    """What the differing elements have in common, in words."""
    if not expected.is_floating_point():
        ordered = expected.dim() == 2 and torch.equal(
            expected.sort(-1).values, found.sort(-1).values
        )
        if ordered:
            return "the same values in another order"
        return ""
    if bool((found[unequal] == 0).all()) and not bool((expected[unequal] == 0).all()):
        return "zeros where values are expected: not computed, or not written"
    if bool(found[unequal].isnan().any()) and not bool(expected[unequal].isnan().any()):
        return "NaN from outside: a row, slot or buffer was read that should not be"
    if expected.dim() >= 1 and torch.equal(
        words(expected).flatten().sort().values, words(found).flatten().sort().values
    ):
        return "the same values in other places: permuted"
    close = torch.isclose(expected[unequal].double(), found[unequal].double(), rtol=2**-6)
    if bool(close.all()):
        return "low bits only: sums taken in another order, or rounded at another place"
    return ""
