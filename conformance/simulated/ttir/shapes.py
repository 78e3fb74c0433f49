"""Constants, and values in another shape. Axes stay of length 1 where nothing asks for more."""

import functools
import re
from collections.abc import Sequence

import numpy as np

from glm5_hal.conformance.simulated.ttir.chip import Chip
from glm5_hal.conformance.simulated.ttir.errors import TtirError
from glm5_hal.conformance.simulated.ttir.floats import narrowed
from glm5_hal.conformance.simulated.ttir.graph import Operation
from glm5_hal.conformance.simulated.ttir.registry import Kernel, pure
from glm5_hal.conformance.simulated.ttir.types import Array, Type


def full(x: Array, shape: Sequence[int]) -> Array:
    """A value [P or 1, ...] with all of its tile's elements; nothing is copied."""
    return x if x.shape[1:] == tuple(shape) else np.broadcast_to(x, (x.shape[0], *shape))


def constant(text: str, kind: Type) -> Array:
    """What ``dense<0.5>``, ``dense<[1, 2]>`` or ``7`` says: [1, ...]."""
    inside = re.fullmatch(r"dense<(.*)>", text)
    listed = (inside[1] if inside else text).strip()
    if listed.startswith("["):
        numbers = [_number(part, kind.element) for part in re.findall(r"[^\s,\[\]]+", listed)]
        return np.stack(numbers).reshape(1, *kind.shape)
    return _number(listed, kind.element).reshape((1,) * (1 + len(kind.shape)))


def _number(text: str, element: str) -> Array:
    kind = Type(element)
    if element == "i1":
        return np.asarray(text in ("true", "1", "-1"))
    if not kind.is_float:
        return np.asarray(int(text, 0)).astype(kind.storage)
    if text.startswith("0x"):
        bits = np.asarray(int(text, 16), np.uint64)
        return bits.astype(f"u{kind.storage.itemsize}").view(kind.storage)
    if element == "bf16":
        return narrowed(np.asarray(float(text), np.float32))
    return np.asarray(float(text)).astype(kind.storage)


def scalar(value: float, kind: Type) -> Array:
    """An argument that is a number: [1]; not to be written."""
    if type(value) is int:  # of floats, zeros are equal and differ
        return _integer(value, kind)
    if kind.element == "bf16":
        return narrowed(np.asarray([value], np.float32))
    return np.asarray([value]).astype(kind.storage)


@functools.lru_cache(maxsize=4096)
def _integer(value: int, kind: Type) -> Array:
    made = np.asarray([value]).astype(kind.storage)
    made.flags.writeable = False
    return made


@pure("arith.constant")
def _constant(op: Operation, chip: Chip) -> Kernel:
    made = constant(op.attributes["value"], op.type)
    return lambda: made


@pure("ub.poison")
def _poison(op: Operation, chip: Chip) -> Kernel:
    made = np.full((1,) * (1 + len(op.type.shape)), 0xFF, np.uint8)
    made = np.broadcast_to(made[..., None], (*made.shape, op.type.storage.itemsize))
    bits = np.ascontiguousarray(made).view(op.type.storage)[..., 0]
    return lambda: bits


@pure("tt.make_range")
def _range(op: Operation, chip: Chip) -> Kernel:
    start, end = (int(op.attributes[name]) for name in ("start", "end"))
    made = np.arange(start, end, dtype=np.int32)[None]
    return lambda: made


@pure("tt.splat", "tt.unsplat")
def _splat(op: Operation, chip: Chip) -> Kernel:
    ones = (1,) * len(op.type.shape)
    return lambda x: x.reshape(x.shape[0], *ones)


@pure("tt.broadcast", "ttg.convert_layout")
def _broadcast(op: Operation, chip: Chip) -> Kernel:
    return lambda x: x


@pure("tt.expand_dims")
def _expand(op: Operation, chip: Chip) -> Kernel:
    axis = int(op.attributes["axis"]) + 1
    place = (*(slice(None),) * axis, None)
    return lambda x: x[place]


@pure("tt.reshape")
def _reshape(op: Operation, chip: Chip) -> Kernel:
    before, after = op.operands[0].type.shape, op.type.shape

    def reshape(x: Array) -> Array:
        if all(size == 1 for size in x.shape[1:]):
            return x.reshape(x.shape[0], *(1,) * len(after))
        return full(x, before).reshape(x.shape[0], *after)

    return reshape


@pure("tt.trans")
def _transpose(op: Operation, chip: Chip) -> Kernel:
    found = re.search(r"array<i32: ([\d, ]+)>", op.attributes["order"])
    if found is None:
        raise TtirError(f"order {op.attributes['order']!r} is not known")
    order = (0, *(int(axis) + 1 for axis in found[1].split(",")))
    return lambda x: x.transpose(order)


@pure("tt.join")
def _join(op: Operation, chip: Chip) -> Kernel:
    return lambda a, b: np.stack(np.broadcast_arrays(a, b), -1)


@pure("tt.split")
def _split(op: Operation, chip: Chip) -> Kernel:
    shape = op.operands[0].type.shape

    def split(x: Array) -> tuple[Array, Array]:
        whole = full(x, shape)
        return whole[..., 0], whole[..., 1]

    return split


@pure("tt.cat")
def _cat(op: Operation, chip: Chip) -> Kernel:
    shapes = [operand.type.shape for operand in op.operands]

    def cat(a: Array, b: Array) -> Array:
        count = max(len(a), len(b))
        parts = (full(x, shape) for x, shape in zip((a, b), shapes, strict=True))
        return np.concatenate([np.broadcast_to(x, (count, *x.shape[1:])) for x in parts], 1)

    return cat


@pure("tt.gather")
def _gather(op: Operation, chip: Chip) -> Kernel:
    axis = int(op.attributes["axis"]) + 1
    source, index = (operand.type.shape for operand in op.operands)

    def gather(x: Array, places: Array) -> Array:
        count = max(len(x), len(places))
        whole = np.broadcast_to(x, (count, *source))
        return np.take_along_axis(whole, np.broadcast_to(places, (count, *index)), axis)

    return gather


@pure("arith.select")
def _select(op: Operation, chip: Chip) -> Kernel:
    rank = len(op.type.shape)
    if op.operands[0].type.shape or not rank:
        return np.where
    return lambda c, a, b: np.where(c.reshape(-1, *(1,) * rank), a, b)
