"""Reading and executing TTIR: what is known, what is refused, and programs that part ways."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from glm5_hal.conformance.simulated.habits import TritonHabits
from glm5_hal.conformance.simulated.ttir import execution
from glm5_hal.conformance.simulated.ttir.chip import Chip
from glm5_hal.conformance.simulated.ttir.errors import KernelError, TtirError
from glm5_hal.conformance.simulated.ttir.floats import fused
from glm5_hal.conformance.simulated.ttir.frames import Frame
from glm5_hal.conformance.simulated.ttir.integers import high_product, truncated
from glm5_hal.conformance.simulated.ttir.memory import Memory
from glm5_hal.conformance.simulated.ttir.parsing import parse
from glm5_hal.conformance.simulated.ttir.passes import prepare
from glm5_hal.conformance.simulated.ttir.registry import Binder

assert execution.FAMILIES  # every operation is registered

COLLATZ = """
module {
  tt.func public @steps() attributes {noinline = false} {
    %c1_i32 = arith.constant 1 : i32
    %c2_i32 = arith.constant 2 : i32
    %c3_i32 = arith.constant 3 : i32
    %c0_i32 = arith.constant 0 : i32
    %0 = tt.get_program_id x : i32
    %1 = arith.addi %0, %c1_i32 : i32
    %2:2 = scf.while (%arg0 = %1, %arg1 = %c0_i32) : (i32, i32) -> (i32, i32) {
      %3 = arith.cmpi ne, %arg0, %c1_i32 : i32
      scf.condition(%3) %arg0, %arg1 : i32, i32
    } do {
    ^bb0(%arg0: i32, %arg1: i32):
      %3 = arith.remsi %arg0, %c2_i32 : i32
      %4 = arith.cmpi eq, %3, %c0_i32 : i32
      %5 = scf.if %4 -> (i32) {
        %7 = arith.divsi %arg0, %c2_i32 : i32
        scf.yield %7 : i32
      } else {
        %7 = arith.muli %arg0, %c3_i32 : i32
        %8 = arith.addi %7, %c1_i32 : i32
        scf.yield %8 : i32
      }
      %6 = arith.addi %arg1, %c1_i32 : i32
      scf.yield %5, %6 : i32, i32
    }
    %9 = scf.for %arg0 = %c0_i32 to %0 step %c2_i32 iter_args(%arg1 = %2#1) -> (i32)  : i32 {
      %10 = arith.addi %arg1, %arg0 : i32
      scf.yield %10 : i32
    }
    tt.return %9 : i32
  }
}
"""


def run(text: str, programs: int, arguments: Sequence[Any] = ()) -> list[Any]:
    """What a function hands over, for programs along x."""
    module = parse(text, "it")
    prepare(module, fuses=False)
    routine = Binder(module, Chip(TritonHabits()), "it").block(module.entry.body)
    numbers = np.arange(programs, dtype=np.int32)
    zero = np.zeros(1, np.int32)
    frame = Frame(Memory(()), (programs, 1, 1), (numbers, zero, zero))
    return [np.broadcast_to(made, programs).tolist() for made in routine.run(frame, arguments)]


def one_by_one(program: int) -> int:
    value, steps = program + 1, 0
    while value != 1:
        value = value // 2 if value % 2 == 0 else 3 * value + 1
        steps += 1
    return steps + sum(range(0, program, 2))


def test_programs_that_part_ways_do_what_each_does_alone() -> None:
    assert run(COLLATZ, 40) == [[one_by_one(program) for program in range(40)]]


def body(line: str) -> str:
    return f"module {{\n  tt.func public @it(%arg0: i32) {{\n    {line}\n    tt.return\n  }}\n}}\n"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("%0 = tt.unheard %arg0 : i32", "it: the operation tt.unheard is not known .line 3"),
        ("%0 = arith.addi %arg0, %arg1 : i32", "it: line 3 of its TTIR: %arg1 is not defined"),
        ("%0 = tt.splat %arg0 : i32 -> tensor<4xi7>", "type 'i7' is not known"),
        ("cf.br ^bb1", "operation cf.br is not known"),
        ("what is this", "line 3 of its TTIR: no operation: what is this"),
    ],
)
def test_what_is_not_known_is_named_with_its_line(line: str, message: str) -> None:
    with pytest.raises(TtirError, match=message):
        run(body(line), 1, [np.ones(1, np.int32)])


def test_a_failing_assertion_names_its_line() -> None:
    text = body('%0 = arith.constant false\n    tt.assert %0, "never" : i1')
    with pytest.raises(KernelError, match=r"it: an assertion fails \(line 4"):
        run(text, 3, [np.ones(1, np.int32)])


def test_quotients_go_towards_zero() -> None:
    a, b = np.meshgrid(np.arange(-9, 10), np.array([-4, -3, -1, 1, 2, 5]))
    wanted = [int(x / y) for x, y in zip(a.ravel(), b.ravel(), strict=True)]
    assert truncated(a, b).ravel().tolist() == wanted


@pytest.mark.parametrize("bits", [32, 64])
def test_the_upper_half_of_a_product(bits: int) -> None:
    values = [0, 1, 3, (1 << bits) - 1, (1 << (bits - 1)) + 7, 0xDEADBEEF]
    held = np.array(values, dtype=f"u{bits // 8}").view(f"i{bits // 8}")
    for value, other in zip(values, held, strict=True):
        made = high_product(held, np.full_like(held, other)).view(f"u{bits // 8}")
        assert made.tolist() == [one * value >> bits for one in values]


def test_a_fused_product_is_rounded_once() -> None:
    one, half = np.float32([1 + 2**-23]), np.float32([2**-24])
    # 2^-24 + 2^-47 above `one`: float64 would round it to a tie, and float32 that to even
    assert fused(one, half, one)[0] == np.nextafter(one[0], np.float32(2))
    tiny = np.float32([2**-30])
    for sign in (1, -1):  # 1 + 2^-24 is a tie; what is far below it decides
        made = fused(tiny, sign * tiny, np.float32([1]))
        assert made[0] == 1
    x = np.float32([1 + 2**-12])
    assert fused(x, x, -np.float32([1 + 2**-11]))[0] == np.float32(2**-24)
