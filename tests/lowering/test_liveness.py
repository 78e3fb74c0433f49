"""Bytes that are alive at once, of functions small enough to count by hand."""

import pytest

from glm5_hal.conformance.lowering.liveness import alive

KIB = "tensor<256xf32>"


def test_a_chain_needs_one_tensor() -> None:
    text = f"""
  %0 = memref.alloc() : memref<256xf32>
  %1 = bufferization.to_tensor %0 restrict writable : memref<256xf32>
  %2 = math.absf %1 : {KIB}
  %3 = math.absf %2 : {KIB}
  bufferization.materialize_in_destination %3 in writable %p : ({KIB}, memref<256xf32>) -> ()"""
    assert alive(text, 32) == 1024


def test_what_is_used_later_stays() -> None:
    text = f"""
  %0 = memref.alloc() : memref<256xf32>
  %2 = math.absf %0 : {KIB}
  %3 = math.absf %2 : {KIB}
  %4 = arith.addf %3, %0 : {KIB}
  %5 = arith.addf %4, %2 : {KIB}
  bufferization.materialize_in_destination %5 in writable %p : ({KIB}, memref<256xf32>) -> ()"""
    assert alive(text, 32) == 3 * 1024


def test_constants_take_nothing() -> None:
    text = f"""
  %e = tensor.empty() : {KIB}
  %c = linalg.fill ins(%cst : f32) outs(%e : {KIB}) -> {KIB}
  %0 = memref.alloc() : memref<256xf32>
  %1 = arith.addf %0, %c : {KIB}
  %2 = arith.mulf %1, %c : {KIB}
  bufferization.materialize_in_destination %2 in writable %p : ({KIB}, memref<256xf32>) -> ()"""
    assert alive(text, 32) == 1024


def test_a_loop_holds_what_it_uses_from_outside() -> None:
    text = f"""
  %0 = memref.alloc() : memref<256xf32>
  %1 = scf.for %i = %a to %b step %s iter_args(%sum = %c) -> ({KIB})  : i32 {{
    %2 = memref.alloc() : memref<256xf32>
    %3 = arith.addf %2, %0 : {KIB}
    %4 = arith.addf %3, %sum : {KIB}
    scf.yield %4 : {KIB}
  }}
  %5 = math.absf %1 : {KIB}
  bufferization.materialize_in_destination %5 in writable %p : ({KIB}, memref<256xf32>) -> ()"""
    assert alive(text, 32) == 3 * 1024


def test_a_comparison_holds_bits_and_rows_are_rounded_up() -> None:
    text = """
  %0 = memref.alloc() : memref<4x2xf32>
  %1 = arith.cmpf olt, %0, %0 : tensor<4x2xf32>
  %2 = arith.select %1, %0, %c : tensor<4x2xi1>, tensor<4x2xf32>
  bufferization.materialize_in_destination %2 in writable %p : (tensor<4x2xf32>) -> ()"""
    assert alive(text, 1) == 4 * 2 * 4 + 4 * 1
    assert alive(text, 32) == 4 * 32 + 4 * 32


@pytest.mark.parametrize(("after", "bytes_alive"), [("", 0), ("  %9 = math.absi %6 : {0}\n", 1024)])
def test_a_matrix_unit_has_memory_of_its_own(after: str, bytes_alive: int) -> None:
    kind = "tensor<16x16xi32>"
    text = f"""
  %0 = memref.alloc() : memref<16x32xi8>
  %1 = bufferization.to_tensor %0 : memref<16x32xi8>
  %2 = memref.alloc() : memref<32x16xi8>
  %3 = bufferization.to_tensor %2 : memref<32x16xi8>
  %6 = linalg.matmul ins(%1, %3 : tensor<16x32xi8>, tensor<32x16xi8>) outs(%z : {kind}) -> {kind}
{after.format(kind)}"""
    assert alive(text, 32) == bytes_alive
