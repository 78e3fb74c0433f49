"""The chip's own data, and its compiler's errors: no compiler is needed to read either."""

from glm5_hal.backends.ascend.lowering import FRONT_END, first_error
from glm5_hal.conformance.lowering.front_end import FrontEnd, read_restrictions
from glm5_hal.kernels.triton.target import read_target


def test_the_table_of_tiles_keeps_to_the_restrictions() -> None:
    assert isinstance(FRONT_END, FrontEnd)
    target = read_target(*FRONT_END.tiles.split(":"))
    limits = read_restrictions(FRONT_END.restrictions)
    assert target.grid_limit == limits.grid
    assert target.shared_memory == limits.buffered
    assert set(target.input_precision) <= set(limits.precisions)


def test_an_error_is_told_in_a_line() -> None:
    printed = "k.mlir:3:8: error: unexpected type fp8\nnote: see current operation"
    assert first_error(printed) == "unexpected type fp8"


def test_a_crash_says_where() -> None:
    printed = (
        '%1:2 = "scf.if"(%0) ({\n'
        "opt: /a/b/Interleave.cpp:635: int f(): Assertion `isa<Attribute>(x)' failed.\nStack dump:"
    )
    assert first_error(printed) == (
        "the converter crashed in Interleave.cpp: Assertion `isa<Attribute>(x)' failed."
    )


def test_a_crash_without_words() -> None:
    assert first_error("PLEASE submit a bug report\nStack dump:\n0. Program") == (
        "the converter crashed and did not say why"
    )
    assert first_error("") == "the converter crashed and did not say why"
