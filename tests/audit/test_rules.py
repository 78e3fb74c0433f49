"""The audit's rules on a few lines of code each: what breaks them and what does not."""

import pytest
from audits import code

from glm5_hal import Numerics
from glm5_hal.conformance.audit.compiler import Compiled, _spills
from glm5_hal.conformance.audit.rules import RULES, Status


def status(rule: str, found: Compiled, profile: Numerics = Numerics.EXACT) -> Status:
    """What a rule says of some code."""
    return RULES[f"AUDIT-{rule}"].judge(found, profile).status


DIVISION = """
	v_div_scale_f32 v1, s[0:1], v0, v0, 1.0
	v_rcp_f32_e32 v2, v1
	v_fma_f32 v3, -v1, v2, 1.0
	v_fmac_f32_e32 v2, v3, v2
	v_mul_f32_e32 v5, v3, v2
	v_fma_f32 v6, -v1, v5, v3
	v_fmac_f32_e32 v5, v6, v2
	v_fma_f32 v1, -v1, v5, v3
	v_div_fmas_f32 v1, v1, v2, v5
	v_div_fixup_f32 v0, v1, v0, 1.0
"""
LONG_DIVISION = """
	v_fmac_f32_e32 v6, 0x4f800000, v7
	v_rcp_f32_e32 v6, v6
	v_trunc_f32_e32 v7, v7
	v_fmac_f32_e32 v6, 0xcf800000, v7
"""
LONG = "  %5 = sdiv i64 %3, %4, !dbg !9\n"
ROOT = "  %1 = tail call float @llvm.amdgcn.rsq.f32(float %0), !dbg !91\n"
REFINED = "  %2 = tail call float @llvm.fma.f32(float %0, float %1, float %0), !dbg !91\n"
FMA = "\tv_fma_f32 v1, v2, v3, v4\n"
ROOTED = "\tv_rsq_f32_e32 v1, v0\n" + "\tv_fma_f32 v5, -v1, v3, 0.5\n" * 5


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("\tmul.rn.f32 \t%r1, %r2, %r3;", Status.PASSED),
        ("\tadd.rn.f32 \t%r1, %r2, %r3;", Status.PASSED),
        ("\tdiv.rn.f32 \t%r1, %r2, %r3;", Status.PASSED),
        ("\tmad.lo.s32 \t%r1, %r2, %r3, %r4;", Status.PASSED),
        ("\tadd.s32 \t%r1, %r2, %r3;", Status.PASSED),
        ("\tadd.f32 \t%r1, %r2, %r3;", Status.BROKEN),
        ("\tmul.ftz.f32 \t%r1, %r2, %r3;", Status.BROKEN),
        ("\t@%p1 fma.rn.f32 \t%r1, %r2, %r3, %r4;", Status.BROKEN),
        ("\tfma.rn.f32x2 \t%rd1, %rd2, %rd3, %rd4;", Status.BROKEN),
        ("\tfma.rn.relu.bf16x2 \t%r1, %r2, %r3, %r4;", Status.BROKEN),
        ("\tmad.f32 \t%r1, %r2, %r3, %r4;", Status.BROKEN),
    ],
)
def test_what_an_nvidia_assembler_may_contract(line: str, wanted: Status) -> None:
    assert status("FMA-1", code("sm_90", assembly=line)) is wanted


@pytest.mark.parametrize(
    ("parts", "wanted"),
    [
        ({"assembly": DIVISION}, Status.PASSED),
        ({"assembly": DIVISION * 3}, Status.PASSED),
        ({"assembly": LONG_DIVISION, "llir": LONG}, Status.PASSED),
        ({"assembly": ROOTED, "llir": ROOT + REFINED * 5}, Status.PASSED),
        ({"assembly": "\tv_mfma_i32_16x16x32_i8 a[0:3], v[0:1], v[2:3], a[0:3]"}, Status.PASSED),
        ({"assembly": "\tv_mad_u64_u32 v[0:1], s[0:1], v2, v3, v[4:5]"}, Status.PASSED),
        ({"assembly": DIVISION + FMA}, Status.BROKEN),
        ({"assembly": DIVISION + "\tv_fmac_f32_e32 v1, v2, v3\n"}, Status.BROKEN),
        ({"assembly": "\tv_pk_fma_f32 v[0:1], v[2:3], v[4:5], v[6:7]"}, Status.BROKEN),
        ({"assembly": "\tv_dot2_f32_bf16 v0, v1, v2, v0"}, Status.BROKEN),
        ({"assembly": LONG_DIVISION}, Status.BROKEN),
        ({"llir": ROOT + REFINED * 5 + REFINED.replace("!91", "!92")}, Status.BROKEN),
        ({"assembly": ROOTED + FMA, "llir": ROOT + REFINED * 5}, Status.BROKEN),
        ({"llir": "  %3 = fadd contract float %1, %2, !dbg !7"}, Status.BROKEN),
        ({"llir": "  %3 = call float @llvm.fmuladd.f32(float %1, float %2)"}, Status.BROKEN),
        ({"options": {"enable_fp_fusion": True}}, Status.BROKEN),
    ],
)
def test_multiply_adds_on_amdgcn_are_those_of_divisions_and_roots(
    parts: dict[str, object], wanted: Status
) -> None:
    assert status("FMA-1", code("gfx942", **parts)) is wanted


@pytest.mark.parametrize(
    ("target", "parts", "wanted"),
    [
        ("sm_90", {"assembly": "\tdiv.rn.f32 \t%r1, %r2, %r3;"}, Status.PASSED),
        ("sm_90", {"assembly": "\tsqrt.rn.f32 \t%r1, %r2;"}, Status.PASSED),
        ("sm_90", {"assembly": "\tdiv.full.f32 \t%r1, %r2, %r3;"}, Status.BROKEN),
        ("sm_90", {"assembly": "\trsqrt.approx.ftz.f32 \t%r1, %r2;"}, Status.BROKEN),
        ("sm_90", {"assembly": "\tsqrt.approx.f32 \t%r1, %r2;"}, Status.BROKEN),
        ("sm_90", {"ttir": "    %0 = arith.divf %a, %b : tensor<256xf32>"}, Status.BROKEN),
        ("sm_90", {"ttir": "    %0 = arith.divsi %a, %b : tensor<256xi32>"}, Status.PASSED),
        ("gfx942", {"assembly": DIVISION}, Status.PASSED),
        ("gfx942", {"assembly": "\tv_rcp_iflag_f32_e32 v5, v5"}, Status.PASSED),
        ("gfx942", {"assembly": DIVISION + "\tv_rcp_f32_e32 v9, v8\n"}, Status.BROKEN),
        ("gfx942", {"assembly": LONG_DIVISION, "llir": LONG}, Status.PASSED),
        ("gfx942", {"assembly": LONG_DIVISION}, Status.BROKEN),
        ("gfx942", {"assembly": ROOTED, "llir": ROOT + REFINED * 5}, Status.PASSED),
        ("gfx942", {"assembly": ROOTED, "llir": ROOT + REFINED * 4}, Status.BROKEN),
        ("gfx942", {"assembly": "\tv_sqrt_f32_e32 v1, v0"}, Status.BROKEN),
        ("gfx942", {"llir": "  %3 = fdiv float %1, %2, !dbg !4, !fpmath !8"}, Status.BROKEN),
    ],
)
def test_divisions_and_roots_are_the_rounded_ones(
    target: str, parts: dict[str, object], wanted: Status
) -> None:
    assert status("DIVIDE-1", code(target, **parts)) is wanted


REDUCE = """
    %7 = "tt.reduce"(%6) <{{axis = 0 : i32}}> ({{
    ^bb0(%a: {0}, %b: {0}):
      %8 = arith.{1} %a, %b : {0}
      tt.reduce.return %8 : {0}
    }}) : (tensor<256x{0}>) -> {0}
    %9 = arith.addf %x, %y : f32
"""
DOT = "    %3 = tt.dot %a, %b, %c : tensor<16x64x{0}> * tensor<64x16x{0}> -> tensor<16x16x{1}>"


@pytest.mark.parametrize(
    ("ttir", "wanted"),
    [
        (REDUCE.format("i32", "addi"), Status.PASSED),
        (REDUCE.format("f32", "maximumf"), Status.PASSED),
        (REDUCE.format("f32", "addf"), Status.BROKEN),
        (REDUCE.format("f32", "addf").replace("reduce", "scan"), Status.BROKEN),
        (DOT.format("i8", "i32"), Status.PASSED),
        (DOT.format("bf16", "f32"), Status.BROKEN),
        ("    %9 = arith.addf %x, %y : f32", Status.OUTSIDE),
    ],
)
def test_exact_sums_are_of_integers(ttir: str, wanted: Status) -> None:
    assert status("SUM-1", code("sm_90", ttir=ttir)) is wanted


MATRIX = "parent = #mma, kWidth = 4}>> * tensor<64x16xi8"
TTGIR = "    %3 = tt.dot %a, %b, %c : tensor<16x64xi8, #ttg.dot_op<{opIdx = 0, " + MATRIX
WIDENED = "\n    %4 = arith.sitofp %1 : tensor<8xi8> to tensor<8xf32>\n"
MMA = "\tmma.sync.aligned.m16n8k32.row.col.satfinite.s32.s8.s8.s32 { %r1 };"


@pytest.mark.parametrize(
    ("target", "ttgir", "assembly", "wanted"),
    [
        ("sm_80", TTGIR, MMA, Status.PASSED),
        ("sm_80", TTGIR, "\twgmma.mma_async.sync.aligned.m64n32k32.s32.s8.s8", Status.PASSED),
        ("gfx942", TTGIR, "\tv_mfma_i32_16x16x32_i8 a[0:3], v[0:1]", Status.PASSED),
        ("gfx90a", TTGIR, "\tv_mfma_i32_16x16x16i8 a[0:3], v[0:1]", Status.PASSED),
        ("gfx942", TTGIR, "\tv_mfma_f32_16x16x4_f32 a[0:3], v[0:1]", Status.BROKEN),
        ("gfx942", TTGIR, "\tv_add_i32_e32 v8, v1, v2", Status.BROKEN),
        ("sm_80", TTGIR.replace("#mma", "#blocked"), MMA, Status.BROKEN),
        ("sm_80", TTGIR.replace("xi8", "xf32"), MMA, Status.BROKEN),
        ("sm_80", TTGIR + WIDENED, MMA, Status.BROKEN),
    ],
)
def test_int8_products_stay_on_integer_units(
    target: str, ttgir: str, assembly: str, wanted: Status
) -> None:
    found = code(target, ttir=DOT.format("i8", "i32"), ttgir=ttgir, assembly=assembly)
    assert status("INT8-1", found) is wanted


PLACE = """
    %at = arith.extsi %row : i32 to i64 loc(#loc1)
    %at_1 = tt.splat %at : i64 -> tensor<256xi64> loc(#loc1)
    %at_2 = arith.extsi %column : tensor<256xi32> to tensor<256xi64> loc(#loc1)
    %at_3 = arith.addi %at_1, %at_2 : tensor<256xi64> loc(#loc1)
    %end = arith.extsi %count : i32 to i64 loc(#loc1)
    %end_1 = tt.splat %end : i64 -> tensor<256xi64> loc(#loc1)
"""
POINTER = "    %p_1 = tt.addptr %p, %at_3 : tensor<256x!tt.ptr<i32>>, tensor<256xi64> loc(#loc1)\n"
BOUND = "    %mask = arith.cmpi slt, %at_3, %end_1 : tensor<256xi64> loc(#loc1)\n"
WORDS = POINTER.replace("ptr<i32>", "ptr<i64>")
SUM = """
    %s = arith.extsi %x : i32 to i64 loc(#loc1)
    %s_1 = arith.addi %s, %s : i64 loc(#loc1)
"""


@pytest.mark.parametrize(
    ("ttir", "wanted"),
    [
        (PLACE + POINTER + BOUND, Status.PASSED),
        (BOUND.replace("i64", "i32"), Status.OUTSIDE),
        (PLACE + BOUND, Status.BROKEN),
        (PLACE + POINTER, Status.BROKEN),
        (PLACE + POINTER + BOUND + SUM, Status.BROKEN),
        (
            PLACE + POINTER + BOUND + "    %f = arith.sitofp %at_3 : tensor<256xi64> to f32\n",
            Status.BROKEN,
        ),
        (
            PLACE + POINTER + BOUND + "    %s = arith.shrsi %at_3, %end_1 : tensor<256xi64>\n",
            Status.BROKEN,
        ),
        (
            PLACE + WORDS + BOUND + "    tt.store %p_1, %v : tensor<256x!tt.ptr<i64>>\n",
            Status.BROKEN,
        ),
    ],
)
def test_64_bit_integers_are_addresses(ttir: str, wanted: Status) -> None:
    assert status("INT64-1", code("sm_90", ttir=ttir), Numerics.FAST) is wanted


def test_tf32_is_a_matter_of_float32_products() -> None:
    asked = "%c, inputPrecision = tf32 :"
    whole, bytes_ = DOT.format("f32", "f32"), DOT.format("i8", "i32")
    assert status("TF32-1", code("sm_90", ttir=whole)) is Status.PASSED
    assert status("TF32-1", code("sm_90", ttir=whole.replace("%c :", asked))) is Status.BROKEN
    assert status("TF32-1", code("sm_90", ttir=bytes_.replace("%c :", asked))) is Status.OUTSIDE
    xf32 = "\tv_mfma_f32_32x32x4_xf32 a[0:15], v[0:1], v[2:3], a[0:15]"
    assert status("TF32-1", code("gfx942", ttir=whole, assembly=xf32)) is Status.BROKEN


@pytest.mark.parametrize(
    ("target", "assembly", "wanted"),
    [
        ("sm_90", "\tadd.rn.f32 \t%r1, %r2, %r3;", Status.PASSED),
        ("sm_90", "\tsetp.lt.ftz.f32 \t%p1, %r2, %r3;", Status.BROKEN),
        ("gfx942", "\t\t.amdhsa_float_denorm_mode_32 3", Status.PASSED),
        ("gfx942", "\t\t.amdhsa_float_denorm_mode_32 0", Status.BROKEN),
        ("gfx942", "\ts_setreg_imm32_b32 hwreg(HW_REG_MODE, 4, 2), 3", Status.BROKEN),
        ("gfx90a", "\tv_mac_f32_e32 v1, v2, v3", Status.BROKEN),
    ],
)
def test_nothing_is_flushed(target: str, assembly: str, wanted: Status) -> None:
    assert status("FLUSH-1", code(target, assembly=assembly)) is wanted


def test_unfused_multiply_adds_are_those_of_integer_divisions() -> None:
    assembly = LONG_DIVISION.replace("v_fmac_f32_e32 v6,", "v_madmk_f32 v6, v7,")
    assert status("FLUSH-1", code("gfx90a", assembly=assembly, llir=LONG)) is Status.PASSED
    assert status("FLUSH-1", code("gfx90a", assembly=assembly)) is Status.BROKEN


ADD = "    %old = tt.atomic_rmw add, acq_rel, gpu, %p, %v, %m : (!tt.ptr<i32>, i32, i1) -> i32\n"


@pytest.mark.parametrize(
    ("rule", "ttir", "wanted"),
    [
        ("ATOMIC-1", ADD, Status.PASSED),
        ("ATOMIC-1", ADD.replace("add", "fadd"), Status.BROKEN),
        ("ATOMIC-2", ADD, Status.PASSED),
        ("ATOMIC-2", ADD + "    %old_1 = arith.addi %v, %v : i32\n", Status.PASSED),
        ("ATOMIC-2", ADD + "    %at = arith.addi %old, %v : i32\n", Status.BROKEN),
        ("ATOMIC-2", "    tt.store %p, %v : !tt.ptr<i32>\n", Status.OUTSIDE),
    ],
)
def test_atomic_operations_leave_no_order_behind(rule: str, ttir: str, wanted: Status) -> None:
    assert status(rule, code("sm_90", ttir=ttir), Numerics.FAST) is wanted


def test_scalar_registers_in_lanes_of_vectors_are_in_no_memory() -> None:
    counts = "    .sgpr_spill_count: 94\n    .vgpr_spill_count: 0\n"
    assert _spills(counts + "    .private_segment_fixed_size: 0\n", None) == 0
    assert _spills(counts + "    .private_segment_fixed_size: 116\n", None) == 116
    assert _spills(counts, None) is None


def test_spills_that_nobody_counts_are_not_judged() -> None:
    assert status("SPILL-1", code("sm_90", spills=64)) is Status.PASSED
    assert status("SPILL-1", code("sm_90", spills=65)) is Status.BROKEN
    assert status("SPILL-1", code("sm_90", spills=None)) is Status.UNSEEN


def test_shared_memory_is_the_targets_and_what_the_table_promises() -> None:
    assert status("SHARED-1", code("gfx942", shared=65536)) is Status.PASSED
    assert status("SHARED-1", code("gfx942", shared=65537)) is Status.BROKEN
    assert status("SHARED-1", code("sm_90", shared=65537)) is Status.PASSED
    assert status("SHARED-1", code("sm_90", shared=65537, promised=65536)) is Status.BROKEN


def test_threads_are_warps_of_the_targets_width() -> None:
    assert status("THREADS-1", code("sm_90", options={"num_warps": 32})) is Status.PASSED
    assert status("THREADS-1", code("gfx942", options={"num_warps": 16})) is Status.PASSED
    assert status("THREADS-1", code("gfx942", options={"num_warps": 32})) is Status.BROKEN


HEAD = "  tt.func public @kernel(%first: i32 {tt.divisibility = 16 : i32}, %x: !tt.ptr<f32>) {\n"
NUMBER = "    %program = tt.get_program_id x : i32\n"
COUNTED = "    %program_1 = arith.addi %program, %first : i32\n"


@pytest.mark.parametrize(
    ("ttir", "wanted"),
    [
        (HEAD + NUMBER + COUNTED + "    %r = arith.muli %program_1, %c : i32\n", Status.PASSED),
        (HEAD + NUMBER + "    %r = arith.muli %program, %c : i32\n", Status.BROKEN),
        (HEAD + NUMBER + COUNTED + "    %r = arith.muli %program, %c : i32\n", Status.BROKEN),
        (HEAD + NUMBER + COUNTED + "    %n = tt.get_num_programs x : i32\n", Status.BROKEN),
        (NUMBER + "    %r = arith.muli %program, %c : i32\n", Status.PASSED),
    ],
)
def test_parts_of_a_launch_count_from_their_first_program(ttir: str, wanted: Status) -> None:
    assert status("GRID-1", code("sm_90", ttir=ttir)) is wanted


def test_the_largest_launch_fits_the_grid() -> None:
    assert status("GRID-1", code("sm_90", grid=(2**31 - 1, 1, 1))) is Status.PASSED
    assert status("GRID-1", code("gfx942", grid=(2**31 - 1, 1, 1))) is Status.BROKEN
    assert status("GRID-1", code("sm_90", grid=(1, 65536, 1))) is Status.BROKEN


def test_rules_of_the_exact_profile_leave_fast_kernels_alone() -> None:
    contracted = code("sm_90", assembly="\tfma.rn.f32 \t%r1, %r2, %r3, %r4;")
    assert status("FMA-1", contracted) is Status.BROKEN
    found = RULES["AUDIT-FMA-1"].judge(contracted, Numerics.FAST)
    assert (found.status, found.why) == (Status.OUTSIDE, "for exact kernels")


def test_what_breaks_a_rule_is_quoted_once() -> None:
    line = "\tfma.rn.f32 \t%r1, %r2, %r3, %r4;\n"
    found = RULES["AUDIT-FMA-1"].judge(code("sm_90", assembly=line * 2), Numerics.EXACT)
    assert found.lines == ("fma.rn.f32 %r1, %r2, %r3, %r4",)
