"""What is done to a kernel's tree before it runs: fewer operations in loops, shorter lives."""

from collections.abc import Callable

from glm5_hal.conformance.simulated.ttir.graph import Block, Module, Operation, Value
from glm5_hal.conformance.simulated.ttir.registry import is_pure

LOOPS = ("scf.for", "scf.while")
ELEMENTWISE = ("arith.", "math.", "fused.", "tt.addptr", "tt.load", "tt.store", "tt.precise_")
"""Operations that do not look at the shape of their operands."""


def prepare(module: Module, fuses: bool) -> None:
    """All of it, in place.

    Args:
        module: as read.
        fuses: whether the chip rounds a product that is added to something only with the sum.
    """
    for function in module.functions.values():
        if fuses:
            contract(function.body)
        forward(function.body, {})
        part(function.body)
        hoist(function.body)
        join(function.body, {})
        sweep(function.body)
        bury(function.body)


def contract(block: Block) -> None:
    """Products of float32 that are added to something become one operation with the sum."""
    for op in block.operations:
        for region in op.regions:
            contract(region)
        if op.name in ("arith.addf", "arith.subf") and op.type.element == "f32":
            _contract(op)


def _contract(op: Operation) -> None:
    left, right = op.operands
    for product, other, first in ((left, right, True), (right, left, False)):
        maker = product.definition
        if maker is not None and maker.name == "arith.mulf":
            op.operands = (*maker.operands, other)
            if op.name == "arith.addf":
                op.name = "fused.multiply_add"
            else:
                op.name = "fused.multiply_subtract" if first else "fused.subtract_product"
            return


def forward(block: Block, known: dict[Value, Value]) -> None:
    """Element by element nothing need be broadcast first: arrays broadcast themselves."""
    for op in block.operations:
        if op.name == "tt.broadcast":
            known[op.results[0]] = known.get(op.operands[0], op.operands[0])
        elif op.name.startswith(ELEMENTWISE):
            op.operands = tuple(known.get(value, value) for value in op.operands)
        for region in op.regions:
            forward(region, known)


def part(block: Block) -> None:
    """Loads and stores take the terms of their pointers and masks: no tile is made of those."""
    for op in block.operations:
        for region in op.regions:
            part(region)
        if op.name in ("tt.load", "tt.store") and op.operands[0].type.shape:
            value = 1 if op.name == "tt.store" else 0
            pointers = _terms(op.operands[0], _is_sum)
            masks = [
                term
                for mask in op.operands[1 + value : 2 + value]
                for term in _terms(mask, _is_and)
            ]
            rest = (*op.operands[1 : 1 + value], *op.operands[2 + value :])
            op.attributes = {"pointers": str(len(pointers)), "masks": str(len(masks))}
            op.operands = (*pointers, *masks, *rest)
            op.name = op.name.replace("tt.", "tile.")


def _terms(value: Value, splits: Callable[[Operation], bool]) -> list[Value]:
    maker = value.definition
    if maker is None or not splits(maker):
        return [value]
    return [term for operand in maker.operands for term in _terms(operand, splits)]


def _is_sum(op: Operation) -> bool:
    """Sums of 64 bits: narrower ones may overflow, which must be seen."""
    return op.name == "tt.addptr" or (op.name == "arith.addi" and op.type.element == "i64")


def _is_and(op: Operation) -> bool:
    return op.name == "arith.andi" and op.type.element == "i1"


def join(block: Block, before: dict[tuple[object, ...], Operation]) -> None:
    """Of operations that compute the same one is left; the others' users take its results."""
    seen = dict(before)
    same: dict[Value, Value] = {}
    stay = []
    for op in block.operations:
        _rename(op, same)
        key = _key(op)
        first = seen.get(key)
        if first is not None and is_pure(op):
            same.update(zip(op.results, first.results, strict=True))
            continue
        seen[key] = op
        stay.append(op)
        for region in op.regions:
            join(region, seen)
    block.operations = stay


def _key(op: Operation) -> tuple[object, ...]:
    kinds = tuple(value.type for value in op.results)
    return op.name, op.operands, op.words, tuple(sorted(op.attributes.items())), kinds


def _rename(op: Operation, same: dict[Value, Value]) -> None:
    if same:
        op.operands = tuple(same.get(value, value) for value in op.operands)
        for region in op.regions:
            for inner in region.operations:
                _rename(inner, same)


def sweep(block: Block) -> None:
    """What nothing uses is not computed."""
    used = {value for op in block.operations for value in op.used() if not is_pure(op)}
    stay = []
    for op in reversed(block.operations):
        if not is_pure(op) or used.intersection(op.results):
            stay.append(op)
            used.update(op.operands)
        for region in op.regions:
            sweep(region)
    block.operations = stay[::-1]


def hoist(block: Block) -> None:
    """What every turn of a loop computes anew, from values of outside, goes before the loop."""
    made: list[Operation] = []
    for op in block.operations:
        for region in op.regions:
            hoist(region)
        if op.name in LOOPS:
            for region in op.regions:
                made += _constant_part(region)
        made.append(op)
    block.operations = made


def _constant_part(body: Block) -> list[Operation]:
    """Take the operations that depend on nothing inside out of a loop's body."""
    inside: set[Value] = set(body.arguments)
    gone, stay = [], []
    for op in body.operations[:-1]:
        if is_pure(op) and not inside.intersection(op.operands):
            gone.append(op)
        else:
            stay.append(op)
            inside.update(op.results)
    body.operations = [*stay, body.operations[-1]]
    return gone


def bury(block: Block) -> None:
    """Note after which operation each value of a block is used no more."""
    last: dict[Value, Operation] = {}
    for op in block.operations:
        for region in op.regions:
            bury(region)
        last.update(dict.fromkeys(op.used(), op))
        last.update({result: op for result in op.results if result not in last})
    here = {*block.arguments, *(result for op in block.operations for result in op.results)}
    end = block.operations[-1]
    drops: dict[Operation, list[Value]] = {}
    for value in here:
        user = last.get(value)
        if user is not None and user is not end:
            drops.setdefault(user, []).append(value)
    for op, values in drops.items():
        op.drops = tuple(values)
