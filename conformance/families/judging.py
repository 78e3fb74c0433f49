"""What the families share: bytes must agree, digests, decoys."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from glm5_hal import Runtime
from glm5_hal.conformance.call import Call, answer
from glm5_hal.conformance.case import FUNCTION, Case, Check, Evidence, Failure
from glm5_hal.conformance.compare import first_difference, words
from glm5_hal.conformance.subjects import Variant
from glm5_hal.levels import Numerics


def digest(tensor: Tensor) -> str:
    """SHA-256 of dtype, shape and bytes; every NaN counts as one pattern."""
    if tensor.is_floating_point():
        tensor = torch.where(tensor.isnan(), torch.nan, tensor)
    return _sha256(tensor, words(tensor))


def _sha256(tensor: Tensor, content: Tensor) -> str:
    form = f"{tensor.dtype}{list(tensor.shape)}".encode()
    return hashlib.sha256(form + content.numpy().tobytes()).hexdigest()


def digests(results: tuple[Tensor, ...]) -> dict[str, str]:
    """Digest of each result."""
    return {f"output{number}": digest(result) for number, result in enumerate(results)}


def raw_digests(results: tuple[Tensor, ...]) -> dict[str, str]:
    """Digest of each result with the bits of its NaN, which the exact profile defines."""
    return {
        f"output{number}": _sha256(result, words(result)) for number, result in enumerate(results)
    }


def same_bytes(
    expected: tuple[Tensor, ...],
    found: tuple[Tensor, ...],
    *,
    message: str,
    change: str = "",
    hint: str = "",
    any_nan: bool = True,
) -> None:
    """Raise `Failure` at the first differing byte."""
    difference = first_difference(expected, found, any_nan=any_nan)
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
    shares: str = "",
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
        shares=shares,
    )


def in_exact(case: Case) -> Case:
    """The same case in the exact profile."""
    return replace(case, id=f"exact/{case.id}", profile=Numerics.EXACT)


def recorded(build: Callable[[], Call], hint: str) -> Check:
    """A check of all bytes of an op: its digests are held against the golden ones.

    The definition is computed only to show where they differ.
    """

    def check(runtime: Runtime) -> Evidence:
        call = build()
        found = answer(runtime, call)

        def explain() -> None:
            expected = call.defined(Numerics.EXACT)
            message = "not the bytes of the definition"
            same_bytes(expected, found, message=message, hint=hint, any_nan=False)

        return Evidence(raw_digests(found), explain=explain)

    return check


def parity(build: Callable[[], Call]) -> Check:
    """A check that an op answers what its definition does, byte for byte."""

    def check(runtime: Runtime) -> Evidence:
        call = build()
        expected = call.defined(runtime.plan.numerics)
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
