"""What the extension does in one call is what numpy does operation by operation, and no more."""

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from inside import DEVICE, inside

from glm5_hal.conformance.simulated import build
from glm5_hal.conformance.simulated.habits import TritonHabits
from glm5_hal.conformance.simulated.ttir import chains, execution
from glm5_hal.conformance.simulated.ttir.access import load_elements, store_elements
from glm5_hal.conformance.simulated.ttir.chip import Chip
from glm5_hal.conformance.simulated.ttir.errors import KernelError
from glm5_hal.conformance.simulated.ttir.frames import Frame
from glm5_hal.conformance.simulated.ttir.memory import Memory
from glm5_hal.conformance.simulated.ttir.parsing import parse
from glm5_hal.conformance.simulated.ttir.passes import prepare
from glm5_hal.conformance.simulated.ttir.registry import Binder, Routine
from glm5_hal.conformance.simulated.ttir.tiles import Lines, lines
from glm5_hal.conformance.simulated.ttir.types import STORAGE, Array

assert execution.FAMILIES  # every operation is registered

PROGRAMS, ROWS, COLUMNS = 3, 4, 8
TILE = f"{ROWS}x{COLUMNS}"
SHAPES = [
    (PROGRAMS, ROWS, COLUMNS),
    (1, ROWS, COLUMNS),
    (PROGRAMS, 1, COLUMNS),
    (PROGRAMS, ROWS, 1),
    (1, 1, 1),
]
INTEGERS = ("i8", "i16", "i32", "i64")
COMPARED = ("eq", "ne", "slt", "sle", "sgt", "sge", "ult", "ule", "ugt", "uge")


def tensor(element: str) -> str:
    return f"tensor<{TILE}x{element}>"


def operations() -> Iterator[tuple[tuple[str, ...], str, str]]:
    """(types of the operands, name and words, what is printed as type) of each that is chained."""
    for element, name in itertools.product((*INTEGERS, "i1"), chains.BINARY):
        if element != "i1" or chains.BINARY[name] in chains.BITS:
            yield (element, element), name, tensor(element)
    for element, word in itertools.product(INTEGERS, COMPARED):
        yield (element, element), f"arith.cmpi {word},", tensor(element)
    for word in ("eq", "ne"):
        yield ("i1", "i1"), f"arith.cmpi {word},", tensor("i1")
    for word in chains.FLOATS:
        yield ("f32", "f32"), f"arith.cmpf {word},", tensor("f32")
    for element in (*INTEGERS, "i1", "f32"):
        types = f"{tensor('i1')}, {tensor(element)}"
        yield ("i1", element, element), "arith.select", types
    order = ("i1", *INTEGERS)
    for source, goal in itertools.combinations(order, 2):
        yield (source,), "arith.extsi", f"{tensor(source)} to {tensor(goal)}"
        yield (source,), "arith.extui", f"{tensor(source)} to {tensor(goal)}"
        yield (goal,), "arith.trunci", f"{tensor(goal)} to {tensor(source)}"
    yield ("i32",), "arith.sitofp", f"{tensor('i32')} to {tensor('f32')}"


OPERATIONS = list(operations())


def values(element: str, seed: int) -> Array:
    """[PROGRAMS, ROWS, COLUMNS], with the numbers at which something may go wrong among them."""
    random = np.random.default_rng(seed)
    shape = (PROGRAMS, ROWS, COLUMNS)
    if element == "i1":
        return random.random(shape) < 0.5
    if element == "f32":
        special = np.array([0, -0.0, 1, -1, np.inf, -np.inf, np.nan, 2**-126], np.float32)
        return random.choice(special, shape)
    kind = np.iinfo(STORAGE[element])
    special = np.array([kind.min, kind.max, 0, 1, -1, 7, 8, 15, 31, 32, 63, 64]).clip(
        kind.min, kind.max
    )
    mixed = random.integers(kind.min, kind.max, shape, STORAGE[element], endpoint=True)
    return np.where(random.random(shape) < 0.5, random.choice(special, shape), mixed).astype(
        STORAGE[element]
    )


def cut(x: Array, shape: tuple[int, ...], turned: bool) -> Array:
    """The beginning of an array, of a shape; perhaps laid out along its columns."""
    made = x[tuple(slice(size) for size in shape)]
    return np.ascontiguousarray(made.swapaxes(1, 2)).swapaxes(1, 2) if turned else made.copy()


def kernel(types: tuple[str, ...], name: str, printed: str) -> str:
    """A kernel that does one operation on its arguments."""
    given = ", ".join(f"%arg{i}: {tensor(element)}" for i, element in enumerate(types))
    operands = ", ".join(f"%arg{i}" for i in range(len(types)))
    result = "i1" if name.startswith("arith.cmp") else printed.rstrip(">").rpartition("x")[2]
    return f"""
        module {{
          tt.func public @it({given}) {{
            %0 = {name} {operands} : {printed}
            tt.return %0 : {tensor(result)}
          }}
        }}
    """


def made(text: str) -> Routine:
    """A kernel that can be run."""
    module = parse(text, "it")
    prepare(module, fuses=False)
    return Binder(module, Chip(TritonHabits()), "it").block(module.entry.body)


def run(routine: Routine, arguments: list[Array]) -> list[Array]:
    """What a kernel hands over."""
    numbers, zero = np.arange(PROGRAMS, dtype=np.int32), np.zeros(1, np.int32)
    with np.errstate(all="ignore"):
        frame = Frame(Memory(()), (PROGRAMS, 1, 1), (numbers, zero, zero))
        return routine.run(frame, arguments)


@pytest.mark.parametrize(
    ("types", "name", "printed"),
    OPERATIONS,
    ids=[
        f"{name.rstrip(',')}-{'-'.join(types)}-{n}" for n, (types, name, _) in enumerate(OPERATIONS)
    ],
)
def test_an_operation_of_a_chain_gives_what_numpy_gives(
    monkeypatch: pytest.MonkeyPatch, types: tuple[str, ...], name: str, printed: str
) -> None:
    text = kernel(types, name, printed)
    monkeypatch.setattr(chains, "LEAST", 1)
    chained = made(text)
    assert [op.name for op, _, _ in chained.steps] == ["fused.chain"]
    monkeypatch.setattr(chains, "LEAST", 1 << 30)
    plain = made(text)
    for shapes in itertools.product(SHAPES, repeat=len(types)):
        if len(types) == 3 and shapes[1:] not in [(SHAPES[0], SHAPES[4]), (SHAPES[2], SHAPES[3])]:
            continue
        for turned in (False, True):
            arguments = [
                cut(values(element, seed), shape, turned)
                for seed, (element, shape) in enumerate(zip(types, shapes, strict=True))
            ]
            (found,), (expected,) = run(chained, arguments), run(plain, arguments)
            assert found.dtype == expected.dtype
            assert found.shape == expected.shape
            assert found.tobytes() == expected.tobytes(), (shapes, turned)


LONG = """
module {
  tt.func public @it(%arg0: tensor<4xi32>, %arg1: i32, %arg2: tensor<4x8xi32>) {
    %c = arith.constant dense<3> : tensor<4x8xi32>
    %0 = tt.expand_dims %arg0 {axis = 1 : i32} : tensor<4xi32> -> tensor<4x1xi32>
    %1 = tt.broadcast %0 : tensor<4x1xi32> -> tensor<4x8xi32>
    %2 = tt.splat %arg1 : i32 -> tensor<4x8xi32>
    %3 = arith.addi %1, %2 : tensor<4x8xi32>
    %4 = arith.muli %3, %arg2 : tensor<4x8xi32>
    %5 = arith.cmpi sgt, %4, %c : tensor<4x8xi32>
    %6 = arith.select %5, %3, %arg2 : tensor<4x8xi1>, tensor<4x8xi32>
    %7 = arith.subi %6, %3 : tensor<4x8xi32>
    %8 = arith.extsi %7 : tensor<4x8xi32> to tensor<4x8xi64>
    %9 = tt.splat %arg1 : i32 -> tensor<4xi32>
    %10 = arith.maxsi %9, %arg0 : tensor<4xi32>
    %11 = tt.bitcast %7 : tensor<4x8xi32> -> tensor<4x8xf32>
    tt.return %8, %3, %10, %9, %11
  }
}
"""


def test_a_chain_hands_over_what_is_used_behind_it(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = [
        values("i32", 1)[:, :, 0],
        np.array([5, -7, 9], np.int32),
        values("i32", 2)[:1],
    ]
    routine = made(LONG)
    ((op, _, _),) = routine.steps
    assert len(op.results) == 5  # and nothing of what is between
    found, again = run(routine, arguments), run(routine, arguments)
    monkeypatch.setattr(chains, "LEAST", 1 << 30)
    expected = run(made(LONG), arguments)
    for one, other, wanted in zip(found, again, expected, strict=True):
        assert one.dtype == wanted.dtype
        assert one.tobytes() == wanted.tobytes()
        assert other.tobytes() == wanted.tobytes()  # nothing lies where the next run works


def memory(size: int = 4096) -> tuple[Memory, torch.Tensor]:
    """A memory of one tensor, which must be kept."""
    held = torch.arange(size, dtype=torch.int32) * 7
    return Memory([held]), held


def tile(turned: bool, distance: int, masked: bool, seed: int) -> tuple[list[Array], list[Array]]:
    """Terms of the pointers of a tile, whose elements lie `distance` apart, and of its mask."""
    random = np.random.default_rng(seed)
    programs = np.arange(PROGRAMS, dtype=np.int64).reshape(-1, 1, 1) * 1000
    down = random.permutation(64)[:ROWS].reshape(1, ROWS, 1) * 13
    across = distance * np.arange(COLUMNS, dtype=np.int32).reshape(1, 1, COLUMNS)
    rows = random.random((PROGRAMS, ROWS, 1)) < 0.7
    columns = np.arange(COLUMNS).reshape(1, 1, COLUMNS) < 5
    terms, masks = [programs, down, across], [rows, columns] if masked else []
    if turned:
        return [x.swapaxes(1, 2) for x in terms], [x.swapaxes(1, 2) for x in masks]
    return terms, masks


def both(terms: list[Array], masks: list[Array]) -> tuple[Array, Array | None]:
    at = sum(terms[1:], terms[0])
    return at, (masks[0] & masks[1]) if masks else None


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("distance", [1, 3])
def test_rows_are_read_and_written_as_elements_are(distance: int, masked: bool) -> None:
    other = np.full((1, 1, 1), -1, np.int32)
    for seed in range(5):
        terms, masks = tile(turned=False, distance=distance, masked=masked, seed=seed)
        found = lines(terms, masks, COLUMNS)
        assert found is not None
        assert found.dense == (distance == 1)
        one, held = memory()
        at, known = both(terms, masks)
        expected = load_elements(one, at, known, other, np.dtype(np.int32))
        assert np.array_equal(found.read(one, COLUMNS, other), expected)
        moved = found.moved([np.full((1, 1, 1), 16)]).moved([np.arange(3).reshape(3, 1, 1)])
        expected = load_elements(
            one, at + 16 + np.arange(3).reshape(3, 1, 1), known, other, np.dtype(np.int32)
        )
        assert np.array_equal(moved.read(one, COLUMNS, other), expected)
        stored = values("i32", seed)
        two, changed = memory()
        found.write(one, stored)
        store_elements(two, at, known, stored)
        assert torch.equal(held, changed)
        found.write(one, stored[:1, :, :1])  # equal elements are one
        store_elements(two, at, known, stored[:1, :, :1])
        assert torch.equal(held, changed)


def test_a_pointer_that_leaves_the_memory_is_named_and_nothing_is_written() -> None:
    one, held = memory(64)
    before = held.clone()
    rows, distances = np.array([[0], [60]]), np.arange(COLUMNS, dtype=np.int64)
    place = Lines(rows, np.ones(1, np.bool_), 0, distances, dense=True)
    other = np.zeros((1, 1), np.int32)
    with pytest.raises(KernelError, match="reads element 64 of 64: outside of the memory"):
        place.read(one, COLUMNS, other)
    with pytest.raises(KernelError, match="writes element 64 of 64: outside of the memory"):
        place.write(one, np.ones((2, 1, COLUMNS), np.int32))
    assert torch.equal(held, before)
    masked = Lines(rows, np.array([[True], [False]]), 0, distances, dense=True)
    assert masked.read(one, COLUMNS, other)[1, 0].tolist() == [0] * COLUMNS


def test_products_of_bytes_are_exact() -> None:
    random = np.random.default_rng(0)
    m, k, n = 16, 96, 24

    def byte(*shape: int) -> Array:
        return random.integers(-128, 127, shape, np.int8, endpoint=True)

    x, y = byte(5, m, k), byte(5, k, n)
    x[:, 3:9] = 0
    z = random.integers(-(2**31), 2**31, (5, m, n)).astype(np.int32)
    turned = np.ascontiguousarray(y.swapaxes(1, 2)).swapaxes(1, 2)
    cases = [
        (x, y, z),
        (x, turned, z),
        (x[:1], y, z[:1, :1, :1]),
        (x, y[:1], z),
        (x[:1], turned[:1], z),
        (x[:, :, :1], y[:, :1], z),  # equal along k
        (x[:1, :1, :1], y[:1, :1, :1], z[:1, :1, :1]),
    ]
    for a, b, total in cases:
        found = build.load().byte_products(a, b, total, m, k, n)
        count = max(len(a), len(b), len(total))
        wide = (
            np.broadcast_to(part, (count, *shape)).astype(np.int64)
            for part, shape in ((a, (m, k)), (b, (k, n)), (total, (m, n)))
        )
        left, right, rest = wide
        expected = np.matmul(left, right) + rest
        assert np.array_equal(found, expected.astype(np.int32))


def test_what_the_extension_is_given_must_fit() -> None:
    extension = build.load()
    one = np.zeros((1, 2, 2), np.int8)
    with pytest.raises(ValueError, match="a tile of another shape"):
        extension.byte_products(one, one, np.zeros((1, 2, 2), np.int32), 2, 3, 2)
    with pytest.raises(KeyError, match="unheard"):
        extension.Chain(1, [], [("unheard.i32", 4, [0])], [])
    with pytest.raises(IndexError, match="not made yet"):
        extension.Chain(1, [], [("add.i32", 4, [0, 2])], [])
    add = extension.Chain(2, [], [("add.i32", 4, [0, 1])], [(2, np.dtype(np.int32))])
    with pytest.raises(TypeError, match="no array"):
        add.run([1, 2])
    with pytest.raises(ValueError, match="shapes do not fit"):
        add.run([np.zeros((2, 3), np.int32), np.zeros((2, 4), np.int32)])


@inside
def test_no_compiler_is_imported_for_the_shape_of_a_result() -> None:
    import sys

    x = torch.arange(12.0).reshape(3, 4)
    on = x.to(DEVICE)
    assert torch.equal(torch.cat((on, on[:1])).cpu(), torch.cat((x, x[:1])))
    assert torch.equal(torch.cat((on[:, ::2], on), -1).cpu(), torch.cat((x[:, ::2], x), -1))
    for axes in (0, -1, (0, 1)):
        for keeps in (False, True):
            assert torch.equal(on.amax(axes, keeps).cpu(), x.amax(axes, keeps))
    assert [(on >= least).all().item() for least in (0, 1)] == [True, False]
    assert "torch._dynamo" not in sys.modules
    with pytest.raises(RuntimeError, match="Sizes of tensors must match"):
        torch.cat((on, on[:, :2]))
    with pytest.raises(IndexError, match="Dimension out of range"):
        on.amax(2)
