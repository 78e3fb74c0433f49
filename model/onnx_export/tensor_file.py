"""Writing one safetensors file piece by piece, for graphs that point into it.

An ONNX tensor may lie in another file, at an offset; a safetensors file is a header and then the
tensors as they are, so it serves as that file. What the header says is known only at the end: the
tensors are collected in a scratch file, and copied behind the header in an order that keeps every
one of them aligned. Memory holds one tensor at a time.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import torch
from torch import Tensor

_NAMES = {
    torch.int64: "I64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.int8: "I8",
    torch.bool: "BOOL",
}
_ALIGNMENT = 64
_LENGTH_BYTES = 8
_CHUNK = 1 << 24


@dataclass(frozen=True)
class Place:
    """Where a tensor's bytes lie.

    Attributes:
        dtype, shape: of the tensor.
        offset: of its first byte in the file.
        length: in bytes.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int
    length: int


class TensorFile:
    """Collects tensors, then writes them.

    Args:
        scratch: file that is used meanwhile and removed at the end.
    """

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._file: BinaryIO = scratch.open("w+b")
        self._kept: list[Place] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
        self._scratch.unlink()

    def add(self, tensor: Tensor) -> int:
        """Take a tensor; returns its number."""
        content = tensor.contiguous().flatten().view(torch.uint8).numpy()
        self._kept.append(
            Place(tensor.dtype, tuple(tensor.shape), self._file.tell(), content.nbytes)
        )
        self._file.write(content.data)
        return len(self._kept) - 1

    def write(self, path: Path, names: dict[int, str]) -> dict[str, Place]:
        """Write the tensors under their names; returns where each lies."""
        # wide elements first: then each begins at a multiple of its own size
        order = sorted(names, key=lambda number: -self._kept[number].dtype.itemsize)
        header: dict[str, object] = {}
        ends = 0
        for number in order:
            kept = self._kept[number]
            header[names[number]] = {
                "dtype": _NAMES[kept.dtype],
                "shape": list(kept.shape),
                "data_offsets": [ends, ends + kept.length],
            }
            ends += kept.length
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-(len(text) + _LENGTH_BYTES) % _ALIGNMENT)
        places, start = {}, _LENGTH_BYTES + len(text)
        with path.open("wb") as file:
            file.write(len(text).to_bytes(_LENGTH_BYTES, "little") + text)
            for number in order:
                kept = self._kept[number]
                places[names[number]] = Place(kept.dtype, kept.shape, start, kept.length)
                self._copy(kept, file)
                start += kept.length
        return places

    def _copy(self, kept: Place, target: BinaryIO) -> None:
        self._file.seek(kept.offset)
        left = kept.length
        while left:
            piece = self._file.read(min(left, _CHUNK))
            target.write(piece)
            left -= len(piece)
