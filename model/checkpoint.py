"""Reading a published checkpoint: everything is checked from the headers before a weight is read.

The format is safetensors and nothing else: headers are JSON and weights are bytes, so opening a
checkpoint runs no code of its author's. What it must hold is the table in `model/tensors.py`.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from contextlib import ExitStack
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self

import torch
from safetensors import SafetensorError, safe_open

from glm5_hal.model.config import ModelConfig
from glm5_hal.model.tensors import (
    FP8_BLOCK,
    SCALE_SUFFIX,
    Kind,
    expected_tensors,
    mtp_duplicates,
    mtp_tensors,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from types import TracebackType

    from torch import Tensor

    from glm5_hal.model.tensors import TensorSpec

Storage = Literal["bf16", "fp32", "fp8"]
"""How the matrices are stored; "fp8" is e4m3 with one fp32 scale a 128 x 128 block."""

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

_STORAGE_OF: dict[str, Storage] = {"BF16": "bf16", "F32": "fp32", "F8_E4M3": "fp8"}
_ITEM_BYTES = {"BF16": 2, "F32": 4, "F8_E4M3": 1}

# A bf16 checkpoint may keep its small tensors in fp32, as the indexer's LayerNorm often is.
_DTYPES: dict[Storage, dict[Kind, tuple[str, ...]]] = {
    "bf16": {"matrix": ("BF16",), "plain": ("BF16", "F32"), "fp32": ("F32",)},
    "fp32": {"matrix": ("F32",), "plain": ("F32",), "fp32": ("F32",)},
    "fp8": {"matrix": ("F8_E4M3",), "plain": ("BF16", "F32"), "fp32": ("F32",)},
}

_LINES_SHOWN = 20
_Findings = defaultdict[str, list[str]]


class CheckpointError(ValueError):
    """A checkpoint that is incomplete, damaged or of another model.

    `findings` maps each sort of defect to all its lines; the message shows the first of each.
    """

    def __init__(self, directory: Path, findings: Mapping[str, Sequence[str]]) -> None:
        self.findings = {sort: tuple(lines) for sort, lines in findings.items()}
        text = [f"{directory} is not a checkpoint that can be read"]
        for sort, lines in self.findings.items():
            text += [f"{sort}: {len(lines)}", *(f"  {line}" for line in lines[:_LINES_SHOWN])]
            if len(lines) > _LINES_SHOWN:
                text.append(f"  and {len(lines) - _LINES_SHOWN} more")
        super().__init__("\n".join(text))


class _Shard(Protocol):
    """What is used of safetensors' `safe_open`, whose own stubs have no types."""

    def keys(self) -> list[str]: ...
    def get_slice(self, name: str) -> Any: ...
    def get_tensor(self, name: str) -> Tensor: ...


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies and what its header says; `dtype` is safetensors' name, as BF16."""

    file: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def nbytes(self) -> int:
        """Bytes on disk."""
        return prod(self.shape) * _ITEM_BYTES[self.dtype]


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """An open checkpoint, known to be complete; weights are read one at a time.

    `tensors` lists what is stored, file by file, by name. Close it, or use it as a context
    manager.
    """

    directory: Path
    config: ModelConfig
    storage: Storage
    has_mtp: bool
    tensors: Mapping[str, StoredTensor]
    _shards: Mapping[str, _Shard] = field(repr=False)
    _handles: ExitStack = field(repr=False)

    @classmethod
    def open(cls, directory: str | Path) -> Self:
        """Opens the directory of a checkpoint and checks all that its headers tell.

        Raises `ConfigError` for its `config.json` and `CheckpointError` for everything else, each
        listing all problems at once.
        """
        directory = Path(directory)
        config = ModelConfig.load(directory / "config.json")
        findings: _Findings = defaultdict(list)
        with ExitStack() as handles:
            index = _read_index(directory, findings)
            files = [SINGLE_FILE] if index is None else sorted(set(index.values()))
            shards = _open_shards(directory, files, handles, findings)
            tensors = _read_headers(shards, findings)
            unread = _compare_with_index(index, tensors, shards, findings)
            storage = _storage(config, tensors)
            has_mtp = config.num_nextn_predict_layers > 0 and any(
                spec.name in tensors or spec.name in unread for spec in mtp_tensors(config)
            )
            if index or shards:
                _compare_with_table(config, tensors, unread, storage, has_mtp, findings)
            if findings:
                raise CheckpointError(directory, findings)
            return cls(directory, config, storage, has_mtp, tensors, shards, handles.pop_all())

    @property
    def default_dtype(self) -> torch.dtype:
        """The dtype to compute in: the stored one, and bfloat16 for FP8."""
        return torch.float32 if self.storage == "fp32" else torch.bfloat16

    @property
    def nbytes(self) -> int:
        """Bytes of all stored tensors."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def read(self, name: str, dtype: torch.dtype) -> Tensor:
        """One tensor in `dtype`, in memory of its own; an FP8 matrix is multiplied by its scales.

        That product is rounded to fp32 and then to `dtype`. Raises `KeyError` for an unknown name.
        """
        stored = self.stored(name)
        if stored.dtype is torch.float8_e4m3fn:
            return dequantize(stored, self.stored(name + SCALE_SUFFIX)).to(dtype)
        return stored.to(dtype, copy=True)

    def stored(self, name: str) -> Tensor:
        """One tensor as it is stored, a view of the mapped file."""
        return self._shards[self.tensors[name].file].get_tensor(name)

    def close(self) -> None:
        """Closes the files; tensors that were read stay valid."""
        self._handles.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def dequantize(quantised: Tensor, scale: Tensor) -> Tensor:
    """fp32 [R, C] of an FP8 matrix [R, C] and its fp32 block scales [ceil(R/128), ceil(C/128)]."""
    weight = quantised.float()
    columns = scale.repeat_interleave(FP8_BLOCK, dim=1)[:, : weight.shape[1]]
    for block, factors in enumerate(columns):
        weight[block * FP8_BLOCK : (block + 1) * FP8_BLOCK] *= factors
    return weight


def _read_index(directory: Path, findings: _Findings) -> dict[str, str] | None:
    """The index's map from tensor to file, or None where one file holds everything."""
    path = directory / INDEX_FILE
    if not path.is_file():
        return None
    try:
        index: Any = json.loads(path.read_text("utf-8"))
        weight_map = {str(name): str(file) for name, file in index["weight_map"].items()}
    except (ValueError, TypeError, KeyError, AttributeError):
        weight_map = {}
    if not weight_map:
        findings["damaged files"].append(f"{INDEX_FILE}: expected a JSON object with a weight_map")
    # A name with a folder in it could reach outside the checkpoint.
    for file in sorted({file for file in weight_map.values() if Path(file).name != file}):
        findings["index entries that are not file names"].append(file)
    return {name: file for name, file in weight_map.items() if Path(file).name == file}


def _open_shards(
    directory: Path, files: Iterable[str], handles: ExitStack, findings: _Findings
) -> dict[str, _Shard]:
    """Opens each file; safetensors itself checks that header and length agree."""
    shards: dict[str, _Shard] = {}
    for file in files:
        path = directory / file
        if not path.is_file():
            findings["missing files"].append(file)
            continue
        try:
            shards[file] = handles.enter_context(safe_open(path, framework="pt"))
        except SafetensorError as error:
            size = f"{path.stat().st_size:,} bytes"
            findings["damaged files"].append(f"{file} ({size}), cut short or corrupt: {error}")
    return shards


def _read_headers(shards: Mapping[str, _Shard], findings: _Findings) -> dict[str, StoredTensor]:
    tensors: dict[str, StoredTensor] = {}
    for file, shard in shards.items():
        for name in sorted(shard.keys()):
            header = shard.get_slice(name)
            if name in tensors:
                findings["tensors stored twice"].append(f"{name}: {tensors[name].file}, {file}")
            tensors[name] = StoredTensor(file, tuple(header.get_shape()), header.get_dtype())
    return tensors


def _compare_with_index(
    index: Mapping[str, str] | None,
    tensors: Mapping[str, StoredTensor],
    shards: Mapping[str, _Shard],
    findings: _Findings,
) -> set[str]:
    """Compares where tensors are with where the index has them.

    Returns the names whose file could not be read: they are neither there nor missing.
    """
    if index is None:
        return set()
    for name in sorted(index.keys() | tensors.keys()):
        indexed = index.get(name, "no file")
        actual = tensors[name].file if name in tensors else "no file"
        if indexed != actual and (indexed in shards or actual in shards):
            findings["index entries that disagree with the files"].append(
                f"{name}: {indexed} by the index, in fact {actual}"
            )
    return {name for name, file in index.items() if file not in shards} - tensors.keys()


def _storage(config: ModelConfig, tensors: Mapping[str, StoredTensor]) -> Storage:
    """What most matrices are stored as; where that is not supported, bf16 is what is expected."""
    dtypes = Counter(
        tensors[spec.name].dtype
        for spec in expected_tensors(config, mtp=True)
        if spec.kind == "matrix" and spec.name in tensors
    )
    return _STORAGE_OF.get(max(dtypes, key=dtypes.__getitem__, default="BF16"), "bf16")


def _compare_with_table(
    config: ModelConfig,
    tensors: Mapping[str, StoredTensor],
    unread: set[str],
    storage: Storage,
    has_mtp: bool,
    findings: _Findings,
) -> None:
    """Compares names, shapes and dtypes with what this configuration needs."""
    expected: dict[str, TensorSpec] = {}
    for spec in expected_tensors(config, has_mtp):
        expected[spec.name] = spec
        if storage == "fp8" and spec.kind == "matrix":
            expected[spec.scale.name] = spec.scale
    accepted = expected | ({spec.name: spec for spec in mtp_duplicates(config)} if has_mtp else {})
    for name, spec in expected.items():
        if name not in tensors and name not in unread:
            part = " of the MTP layer, of which others are there" if spec.component == "mtp" else ""
            findings[f"missing tensors{part}"].append(f"{name} {list(spec.shape)}")
    for name, tensor in tensors.items():
        if name not in accepted:
            findings["unexpected tensors"].append(f"{name} {list(tensor.shape)} in {tensor.file}")
            continue
        spec = accepted[name]
        if tensor.shape != spec.shape:
            findings["wrong shapes"].append(
                f"{name}: {list(tensor.shape)}, expected {list(spec.shape)}"
            )
        dtypes = _DTYPES[storage][spec.kind]
        if tensor.dtype not in dtypes:
            findings[f"wrong dtypes in {storage} storage"].append(
                f"{name}: {tensor.dtype}, expected {' or '.join(dtypes)}"
            )
