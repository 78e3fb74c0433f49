"""Pointers, loads and stores."""

import numpy as np

from glm5_hal.conformance.simulated.ttir.chip import Chip
from glm5_hal.conformance.simulated.ttir.frames import Frame
from glm5_hal.conformance.simulated.ttir.graph import Operation
from glm5_hal.conformance.simulated.ttir.memory import Memory
from glm5_hal.conformance.simulated.ttir.registry import Binder, Kernel, Step, pure, step
from glm5_hal.conformance.simulated.ttir.types import Array


@pure("tt.addptr")
def _add(op: Operation, chip: Chip) -> Kernel:
    return np.add  # an int64 and an integer


@step("tt.ptr_to_int")
def _address(op: Operation, binder: Binder) -> Step:
    (pointer,), (result,) = op.operands, op.results
    size = pointer.type.pointee_size

    def address(frame: Frame) -> None:
        frame.values[result] = frame.get(pointer) * size + frame.memory.base

    return address


@step("tt.int_to_ptr")
def _pointer(op: Operation, binder: Binder) -> Step:
    (address,), (result,) = op.operands, op.results
    size = op.type.pointee_size

    def pointer(frame: Frame) -> None:
        frame.values[result] = frame.memory.elements(frame.get(address), size)

    return pointer


@step("tt.get_program_id")
def _program(op: Operation, binder: Binder) -> Step | None:
    axis = "xyz".index(op.words[0])
    (result,) = op.results
    if binder.launch is not None:
        binder.fix(op.results, [binder.launch.programs[axis]])
        return None

    def program(frame: Frame) -> None:
        frame.values[result] = frame.programs[axis]

    return program


@step("tt.get_num_programs")
def _programs(op: Operation, binder: Binder) -> Step | None:
    axis = "xyz".index(op.words[0])
    (result,) = op.results
    if binder.launch is not None:
        binder.fix(op.results, [np.asarray([binder.launch.grid[axis]], np.int32)])
        return None

    def programs(frame: Frame) -> None:
        frame.values[result] = np.asarray([frame.grid[axis]], np.int32)

    return programs


@step("tt.load")
def _load_scalar(op: Operation, binder: Binder) -> Step:
    """Of a single element a program; tiles are loaded by `tiles`."""
    pointer, *rest = op.operands
    (result,), dtype = op.results, op.type.storage

    def load(frame: Frame) -> None:
        known, instead = [*map(frame.get, rest), None, None][:2]
        frame.values[result] = load_elements(
            frame.memory, frame.get(pointer), known, instead, dtype
        )

    return load


@step("tt.store")
def _store_scalar(op: Operation, binder: Binder) -> Step:
    pointer, value, *masks = op.operands

    def store(frame: Frame) -> None:
        known = frame.get(masks[0]) if masks else None
        store_elements(frame.memory, frame.get(pointer), known, frame.get(value))

    return store


def load_elements(
    memory: Memory,
    at: Array,
    known: Array | None,
    other: Array | None,
    dtype: "np.dtype[np.generic]",
) -> Array:
    """Elements at pointers where they are known, else `other`, else what fresh memory holds."""
    if known is None or known.all():
        return memory.gather(at, dtype)
    shape = np.broadcast_shapes(at.shape, known.shape)
    made = np.empty(shape, dtype)
    made[...] = lacking(dtype) if other is None else other
    known = np.broadcast_to(known, shape)
    made[known] = memory.gather(np.broadcast_to(at, shape)[known], dtype)
    return made


def lacking(dtype: "np.dtype[np.generic]") -> Array:
    """What fresh memory holds: [1]."""
    return np.full(dtype.itemsize, 0xFF, np.uint8).view(dtype)


def store_elements(memory: Memory, at: Array, known: Array | None, stored: Array) -> None:
    """Write elements at pointers where they are known."""
    if known is None:
        shape = np.broadcast_shapes(at.shape, stored.shape)
        memory.scatter(np.broadcast_to(at, shape), np.broadcast_to(stored, shape))
        return
    shape = np.broadcast_shapes(at.shape, stored.shape, known.shape)
    known = np.broadcast_to(known, shape)
    places = np.broadcast_to(at, shape)[known]
    memory.scatter(places, np.broadcast_to(stored, shape)[known])


@step("gpu.barrier", "ttg.barrier", "ttg.local_barrier", "tt.debug_barrier")
def _barrier(op: Operation, binder: Binder) -> Step:
    """Every store is done before the next operation begins."""

    def barrier(frame: Frame) -> None:
        return None

    return barrier
