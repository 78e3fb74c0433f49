"""Each rule on a few lines of code: what breaks it, and what does not."""

import pytest

from glm5_hal import Numerics
from glm5_hal.conformance.audit.rules import Status
from glm5_hal.conformance.lowering.front_end import Restrictions, read_restrictions
from glm5_hal.conformance.lowering.rules import RULES, Lowered

LIMITS = Restrictions(
    source="a test",
    grid=65535,
    types=("f64", "f8E5M2"),
    precisions=("ieee",),
    operations={"arith.remsi": ("i64",), "tt.atomic_rmw add": ("i64",), "tt.dot_scaled": ("any",)},
    functions=("cumsum",),
    looped_atomics=("add", "max"),
    row=32,
    memory=4096,
    buffered=2048,
    doubling="multibuffer",
)
LOOP = "scf.for %k = %a to %b step %c : i32 {\n{}\n}\n"
OR = "  %1 = tt.atomic_rmw or, acq_rel, gpu, %p, %x, %m : (!tt.ptr<i32>, i32, i1) -> i32"
DOT = "%1 = tt.dot %a, %b, %c : tensor<16x32xi8> * tensor<32x16xi8> -> tensor<16x16xi32>"
MATMUL = (
    '%1 = linalg.matmul {{input_precison = "ieee"}} ins(%a, %b : tensor<16x32x{0}>, '
    "tensor<32x16x{0}>) outs(%c : tensor<16x16x{1}>) -> tensor<16x16x{1}>"
)
REDUCE = """%r = linalg.reduce ins(%a : tensor<1x64x{0}>) outs(%b : tensor<1x{0}>) dimensions = [1]
  (%in: {0}, %init: {0}) {{
    %s = arith.{1} %in, %init : {0}
    linalg.yield %s : {0}
  }}"""


def judged(
    rule: str,
    ttir: str = "",
    linalg: str = "",
    grid: tuple[int, int, int] = (1, 1, 1),
    profile: Numerics = Numerics.EXACT,
    doubled: bool = True,
) -> Status:
    return RULES[rule].judge(Lowered(ttir, linalg, grid, LIMITS, doubled), profile).status


def test_a_grid_is_one_dimension_that_fits() -> None:
    assert judged("LOWER-GRID-1", "%0 = tt.get_program_id x : i32", grid=(65535, 1, 1)) is (
        Status.PASSED
    )
    assert judged("LOWER-GRID-1", grid=(65536, 1, 1)) is Status.BROKEN
    assert judged("LOWER-GRID-1", grid=(8, 2, 1)) is Status.BROKEN
    assert judged("LOWER-GRID-1", "%0 = tt.get_program_id y : i32") is Status.BROKEN


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("%1 = arith.addf %a, %b : tensor<64xf64>", Status.BROKEN),
        ("%1 = arith.extf %a : f32 to f64", Status.BROKEN),
        ("%1 = tt.splat %a : !tt.ptr<f64> -> tensor<8x!tt.ptr<f64>>", Status.BROKEN),
        ("%1 = arith.truncf %a : tensor<4xf32> to tensor<4xf8E5M2>", Status.BROKEN),
        ("%1 = arith.addf %a, %b : tensor<64xf32>", Status.PASSED),
        ("%1 = arith.addi %f64, %a : tensor<64xi64>", Status.PASSED),
    ],
)
def test_types_that_the_chip_has_not(line: str, status: Status) -> None:
    assert judged("LOWER-TYPE-1", line) is status
    assert judged("LOWER-TYPE-1", linalg=line) is status


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("%1 = arith.remsi %a, %b : i64", Status.BROKEN),
        ("%1 = arith.remsi %a, %b : tensor<4xi64> loc(#loc3)", Status.BROKEN),
        ("%1 = arith.remsi %a, %b : tensor<4xi32>", Status.PASSED),
        ("%1 = arith.divsi %a, %b : tensor<4xi64>", Status.PASSED),
        (OR.replace(" or,", " add,").replace("i32", "i64"), Status.BROKEN),
        (OR.replace(" or,", " add,"), Status.PASSED),
        ("%1 = tt.dot_scaled %a scale %s, %b, %c lhs = e4m3 rhs = e4m3", Status.BROKEN),
    ],
)
def test_operations_on_types(line: str, status: Status) -> None:
    assert judged("LOWER-OPERATION-1", line) is status


def test_only_documented_functions_are_called() -> None:
    line = "func.func private @triton_{}_0(tensor<8xi32>, i32, i1) -> tensor<8xi32>"
    assert judged("LOWER-CALL-1", linalg=line.format("cumsum")) is Status.PASSED
    assert judged("LOWER-CALL-1", linalg=line.format("sort")) is Status.BROKEN


@pytest.mark.parametrize(
    ("order", "status"),
    [
        ("1, 0", Status.PASSED),
        ("0, 2, 1", Status.PASSED),
        ("2, 1, 0", Status.BROKEN),
        ("1, 2, 0", Status.BROKEN),
    ],
)
def test_axes_move_by_one_place(order: str, status: Status) -> None:
    line = f"%1 = tt.trans %0 {{order = array<i32: {order}>}} : tensor<4x4x4xf32>"
    assert judged("LOWER-PERMUTE-1", line) is status


def test_atomics_in_loops() -> None:
    assert judged("LOWER-ATOMIC-1", LOOP.replace("{}", OR, 1)) is Status.BROKEN
    assert judged("LOWER-ATOMIC-1", LOOP.replace("{}", OR.replace(" or,", " add,"), 1)) is (
        Status.PASSED
    )
    swap = "%1 = tt.atomic_cas acq_rel, gpu, %p, %x, %y : (!tt.ptr<i32>, i32, i32) -> i32"
    assert judged("LOWER-ATOMIC-1", LOOP.replace("{}", swap, 1)) is Status.BROKEN
    assert judged(
        "LOWER-ATOMIC-1", LOOP.replace("{}", "  %2 = arith.addi %a, %b : i32", 1) + OR
    ) is (Status.PASSED)
    inner = "scf.if %p {\n" + OR + "\n}"
    assert judged("LOWER-ATOMIC-1", LOOP.replace("{}", inner, 1)) is Status.BROKEN


def test_float32_products_are_asked_for_whole() -> None:
    whole = MATMUL.format("f32", "f32")
    assert judged("LOWER-PRECISION-1", linalg=whole) is Status.PASSED
    assert judged("LOWER-PRECISION-1", linalg=whole.replace("ieee", "hf32")) is Status.BROKEN
    narrow = MATMUL.format("bf16", "f32").replace("ieee", "hf32")
    assert judged("LOWER-PRECISION-1", linalg=narrow) is Status.PASSED


def test_int8_products_stay_what_they_are() -> None:
    assert judged("LOWER-INT8-1", DOT, MATMUL.format("i8", "i32")) is Status.PASSED
    assert judged("LOWER-INT8-1", DOT, MATMUL.format("f16", "f32")) is Status.BROKEN
    assert judged("LOWER-INT8-1", DOT, MATMUL.format("i8", "f32")) is Status.BROKEN
    assert judged("LOWER-INT8-1") is Status.PASSED


@pytest.mark.parametrize(
    ("rule", "line"),
    [
        ("LOWER-FMA-1", "%1 = math.fma %a, %b, %c : tensor<4xf32>"),
        ("LOWER-FMA-1", "%1 = arith.addf %a, %b fastmath<contract> : tensor<4xf32>"),
        ("LOWER-DIVIDE-1", "%1 = math.rsqrt %a : tensor<4xf32>"),
        ("LOWER-DIVIDE-1", "%1 = arith.divf %a, %b : tensor<4xf32>"),
        ("LOWER-DIVIDE-1", "%1 = math.sqrt %a : tensor<4xf32>"),
        ("LOWER-FUNCTION-1", "%1 = math.exp2 %a : tensor<4xf32>"),
        ("LOWER-SUM-1", REDUCE.format("f32", "addf")),
        ("LOWER-SUM-1", MATMUL.format("bf16", "f32")),
        (
            "LOWER-SUM-1",
            "%1 = call @triton_cumsum_0(%a, %b) : (tensor<8xf32>, i32) -> tensor<8xf32>",
        ),
    ],
)
def test_what_exact_kernels_may_not_hold(rule: str, line: str) -> None:
    assert judged(rule, linalg=line) is Status.BROKEN
    assert judged(rule, linalg=line, profile=Numerics.FAST) is Status.OUTSIDE


@pytest.mark.parametrize(
    ("rule", "line"),
    [
        ("LOWER-FMA-1", "%1 = arith.addf %a, %b fastmath<none> : tensor<4xf32>"),
        ("LOWER-FUNCTION-1", "%1 = math.absf %a : tensor<4xf32>"),
        ("LOWER-SUM-1", REDUCE.format("i64", "addi")),
        ("LOWER-SUM-1", REDUCE.format("f32", "maxnumf")),
        ("LOWER-SUM-1", REDUCE.format("i32", "addi") + "\n%2 = arith.addf %a, %b : tensor<4xf32>"),
    ],
)
def test_what_exact_kernels_may_hold(rule: str, line: str) -> None:
    assert judged(rule, linalg=line) is Status.PASSED


def test_the_rounding_of_a_division_is_not_judged() -> None:
    asked = "%1 = tt.precise_divf %a, %b : tensor<4xf32>"
    made = "%1 = arith.divf %a, %b : tensor<4xf32>"
    assert judged("LOWER-DIVIDE-1", asked, made) is Status.UNSEEN
    assert judged("LOWER-DIVIDE-1", made, made) is Status.BROKEN
    assert judged("LOWER-DIVIDE-1", asked, f"{made}\n{made}") is Status.BROKEN
    assert judged("LOWER-DIVIDE-1") is Status.PASSED


def test_memory() -> None:
    body = "%0 = memref.alloc() : memref<{0}xf32>\n%1 = math.absf %0 : memref<{0}xf32>"
    for room, doubled in ((512, True), (1024, False)):
        fits, beyond = (body.replace("{0}", str(size)) for size in (room, room + 1))
        assert judged("LOWER-MEMORY-1", linalg=fits, doubled=doubled) is Status.PASSED
        assert judged("LOWER-MEMORY-1", linalg=beyond, doubled=doubled) is Status.BROKEN


def test_what_a_port_should_know() -> None:
    text = """
func.func private @triton_cumsum_0(tensor<8xi32>, i32, i1) -> tensor<8xi32>
func.func @k() attributes {mix_mode = "aiv"} {
  scf.for %i = %a to %b step %c {
  } {ExtractedLoadOrStore, parallel}
  %0 = memref.alloc() : memref<1024xf32>
  %1 = math.absf %0 : memref<1024xf32>
}"""
    code = Lowered("", text, (1, 1, 1), LIMITS, doubled=False)
    assert code.mode == "aiv"
    assert code.notes == (
        "calls the vendor's cumsum",
        "elements one at a time: 1",
        "double buffering is off",
    )


def test_the_restrictions_of_the_chips_in_this_repository() -> None:
    limits = read_restrictions("glm5_hal.backends.ascend:restrictions.yaml")
    assert limits.buffered <= limits.memory
    assert limits.operations["arith.remsi"] == ("i64",)
