"""What the families share: bytes must agree, digests, decoys."""

import hashlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from glm5_hal import Runtime
from glm5_hal.conformance.call import Call, answer
from glm5_hal.conformance.case import FUNCTION, Case, Check, Evidence, Failure
from glm5_hal.conformance.compare import first_difference, words
from glm5_hal.conformance.subjects import Variant


def digest(tensor: Tensor) -> str:
    """SHA-256 of dtype, shape and bytes; every NaN counts as one pattern."""
    if tensor.is_floating_point():
        tensor = torch.where(tensor.isnan(), torch.nan, tensor)
    form = f"{tensor.dtype}{list(tensor.shape)}".encode()
    return hashlib.sha256(form + words(tensor).numpy().tobytes()).hexdigest()


def digests(results: tuple[Tensor, ...]) -> dict[str, str]:
    """Digest of each result."""
    return {f"output{number}": digest(result) for number, result in enumerate(results)}


def same_bytes(
    expected: tuple[Tensor, ...],
    found: tuple[Tensor, ...],
    *,
    message: str,
    change: str = "",
    hint: str = "",
) -> None:
    """Raise `Failure` at the first differing byte."""
    difference = first_difference(expected, found)
    if difference is not None:
        raise Failure(f"{message}: {difference}", change=change, difference=difference, hint=hint)


def case(
    requirement: str,
    relation: str,
    variant: Variant,
    check: Check,
    *,
    aspect: str = FUNCTION,
    tag: str = "",
    quick: bool | None = None,
) -> Case:
    """A case of one variant; quick where its shape is, unless said otherwise."""
    name = f"{relation}-{tag}" if tag else relation
    return Case(
        id=f"{requirement}/{name}/{variant.label}",
        requirement=requirement,
        op=variant.op,
        aspect=aspect,
        relation=relation,
        check=check,
        quick=variant.shape.quick if quick is None else quick,
    )


def parity(build: Callable[[], Call]) -> Check:
    """A check that an op answers what its reference does, byte for byte."""

    def check(runtime: Runtime) -> Evidence:
        call = build()
        expected = call.reference()
        found = answer(runtime, call)
        reject_decoys(call, expected, lambda decoy: first_difference(expected, decoy) is None)
        same_bytes(expected, found, message="not the bytes of the reference")
        return Evidence(digests(found))

    return check


def decoys(call: Call, expected: tuple[Tensor, ...]) -> Iterator[tuple[str, tuple[Tensor, ...]]]:
    """Wrong answers that are cheap to give: zeros, an input, rows or columns displaced."""
    yield "zeros", tuple(torch.zeros_like(part) for part in expected)
    for dim in (0, -1):
        moved = tuple(
            part.roll(1, dim) if part.dim() and part.shape[dim] > 1 else part for part in expected
        )
        yield f"results rolled by one along dimension {dim}", moved
    for name, value in call.arguments.items():
        if isinstance(value, Tensor) and value.shape == expected[0].shape:
            yield f"its own input {name}", (value.to(expected[0].dtype), *expected[1:])


def reject_decoys(
    call: Call,
    expected: tuple[Tensor, ...],
    accepts: Callable[[tuple[Tensor, ...]], bool],
) -> None:
    """Raise `Failure` if a decoy that is not simply the right answer would pass."""
    for what, decoy in decoys(call, expected):
        equal = first_difference(expected, decoy) is None
        if not equal and accepts(decoy):
            raise Failure(f"the case is too weak: it would accept {what}")
