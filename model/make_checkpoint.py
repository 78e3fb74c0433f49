"""Random checkpoints in the published naming, the same bits on every machine.

A tensor's values depend on the seed, its name and its shape alone: the name is its stream of
`glm5_hal.philox`. Neither the order of writing nor the sharding nor a framework's version matters.
"""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch.nn.functional import pad

from glm5_hal import philox
from glm5_hal.model.checkpoint import INDEX_FILE, SINGLE_FILE, Checkpoint
from glm5_hal.model.tensors import FP8_BLOCK, expected_tensors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from torch import Tensor

    from glm5_hal.model.checkpoint import Storage
    from glm5_hal.model.config import ModelConfig
    from glm5_hal.model.tensors import TensorSpec

_E4M3_MAX = 448.0
_SPREAD = np.float32(0.1)  # of norm weights around 1, and of biases around 0


def make_checkpoint(
    config: ModelConfig,
    directory: str | Path,
    *,
    seed: int,
    dtype: Storage,
    shard_bytes: int = 4 << 30,
    mtp: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Writes a random checkpoint into a new or empty directory.

    One shard is in memory at a time: `shard_bytes` at most, or one tensor if that is larger. The
    directory appears whole at the end or not at all. `mtp` asks for the MTP layer if the
    configuration has one. `progress` is told (bytes done, bytes in all) after each tensor.
    Raises `FileExistsError` if the directory holds anything.
    """
    directory = Path(directory).absolute()
    if directory.exists() and any(directory.iterdir()):
        raise FileExistsError(f"{directory} is not empty; a checkpoint needs a new directory")
    directory.parent.mkdir(parents=True, exist_ok=True)
    specs = list(expected_tensors(config, mtp and config.num_nextn_predict_layers > 0))
    files = _files(specs, dtype, shard_bytes)
    total = sum(_nbytes(spec, dtype) for spec in specs)
    done = 0
    weight_map: dict[str, str] = {}
    # Beside the target, so that the last step is a rename within one file system.
    with tempfile.TemporaryDirectory(prefix=f".{directory.name}.", dir=directory.parent) as scratch:
        staging = Path(scratch) / directory.name
        staging.mkdir()
        for file, shard in files.items():
            tensors: dict[str, Tensor] = {}
            for spec in shard:
                tensors |= _stored(spec, random_tensor(spec, seed), dtype)
                done += _nbytes(spec, dtype)
                if progress is not None:
                    progress(done, total)
            save_file(tensors, staging / file, metadata={"format": "pt"})
            weight_map |= dict.fromkeys(tensors, file)
        if len(files) > 1:
            index = {"metadata": {"total_size": total}, "weight_map": weight_map}
            _write_json(staging / INDEX_FILE, index)
        _write_json(staging / "config.json", _published_config(config, specs, dtype))
        tokens = {"eos_token_id": list(config.eos_token_id), "pad_token_id": config.pad_token_id}
        _write_json(staging / "generation_config.json", tokens)
        if directory.exists():
            directory.rmdir()
        staging.rename(directory)


def random_tensor(spec: TensorSpec, seed: int) -> Tensor:
    """The fp32 values of one tensor, scaled so that even a small model is lively.

    A matrix has variance 1 / columns and the embedding 1, so that activations, scores and logits
    are near 1; norm weights are 1 + 0.1 n, and biases 0.1 n.
    """
    values = philox.normal(seed, philox.stream_of(spec.name), 0, spec.numel)
    if len(spec.shape) == 1:
        values *= _SPREAD
        if not spec.name.endswith("bias"):
            values += np.float32(1)
    elif spec.component != "embedding":
        values *= np.float32(1 / math.sqrt(spec.shape[1]))
    return torch.from_numpy(values).reshape(spec.shape)


def quantize(weight: Tensor) -> tuple[Tensor, Tensor]:
    """FP8 e4m3 [R, C] and fp32 scales [ceil(R/128), ceil(C/128)] of an fp32 matrix [R, C].

    A block's scale is its largest magnitude / 448, or 1 where that is 0; its elements are divided
    by it in fp32 and rounded to nearest even.
    """
    rows, columns = weight.shape
    padded = pad(weight, (0, -columns % FP8_BLOCK, 0, -rows % FP8_BLOCK))
    blocks = padded.view(-(-rows // FP8_BLOCK), FP8_BLOCK, -1, FP8_BLOCK)
    scale = blocks.abs().amax(dim=(1, 3)) / _E4M3_MAX
    scale[scale == 0] = 1
    quotients = (blocks / scale[:, None, :, None]).view_as(padded)[:rows, :columns]
    return quotients.to(torch.float8_e4m3fn).contiguous(), scale


def content_digest(directory: str | Path) -> str:
    """SHA-256, in hexadecimal, of what a checkpoint's tensors are, however they are sharded.

    It runs over the tensors in the order of their names: a line of name, dtype and shape, then
    the bytes.
    """
    digest = hashlib.sha256()
    with Checkpoint.open(directory) as checkpoint:
        for name, tensor in sorted(checkpoint.tensors.items()):
            digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
            digest.update(checkpoint.stored(name).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _files(specs: Iterable[TensorSpec], dtype: Storage, limit: int) -> dict[str, list[TensorSpec]]:
    """What each file holds: tensors in order, a matrix and its scales together."""
    shards: list[list[TensorSpec]] = []
    room = 0
    for spec in specs:
        size = _nbytes(spec, dtype)
        if size > room:
            shards.append([])
            room = limit
        shards[-1].append(spec)
        room -= size
    if len(shards) == 1:
        return {SINGLE_FILE: shards[0]}
    return {
        f"model-{number:05}-of-{len(shards):05}.safetensors": shard
        for number, shard in enumerate(shards, start=1)
    }


def _nbytes(spec: TensorSpec, dtype: Storage) -> int:
    """Bytes of a tensor as stored, with its scales."""
    if dtype == "fp32" or spec.kind == "fp32":
        return 4 * spec.numel
    if dtype == "fp8" and spec.kind == "matrix":
        return spec.numel + 4 * spec.scale.numel
    return 2 * spec.numel


def _stored(spec: TensorSpec, values: Tensor, dtype: Storage) -> dict[str, Tensor]:
    """A tensor as stored, by name, with its scales."""
    if dtype == "fp32" or spec.kind == "fp32":
        return {spec.name: values}
    if dtype == "fp8" and spec.kind == "matrix":
        weight, scale = quantize(values)
        return {spec.name: weight, spec.scale.name: scale}
    return {spec.name: values.bfloat16()}


def _published_config(
    config: ModelConfig, specs: Iterable[TensorSpec], dtype: Storage
) -> dict[str, Any]:
    stored = replace(config, dtype="float32" if dtype == "fp32" else "bfloat16")
    published = stored.to_published_dict()
    if dtype == "fp8":
        published["quantization_config"] = {
            "quant_method": "fp8",
            "fmt": "e4m3",
            "activation_scheme": "dynamic",
            "weight_block_size": [FP8_BLOCK, FP8_BLOCK],
            "modules_to_not_convert": [
                spec.name.removesuffix(".weight")
                for spec in specs
                if spec.kind == "plain" and len(spec.shape) == 2
            ],
        }
    return published


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", "utf-8")
