"""Tensors as files of the ONNX layout, bit for bit."""

from pathlib import Path

import numpy as np
import onnx
import torch
from google.protobuf.message import DecodeError
from onnx import TensorProto, numpy_helper
from torch import Tensor

from glm5_hal.conformance.compare import words
from glm5_hal.kernels.onnx import TYPES

_DTYPES = {number: dtype for dtype, number in TYPES.items()}


class TensorError(Exception):
    """A file that holds no tensor of the layout."""


def save(name: str, tensor: Tensor, path: Path) -> None:
    """Write a tensor."""
    proto = TensorProto(name=name, data_type=TYPES[tensor.dtype], dims=tensor.shape)
    proto.raw_data = words(tensor).numpy().tobytes()
    path.write_bytes(proto.SerializeToString(deterministic=True))


def load(path: Path) -> Tensor:
    """Read a tensor.

    Raises:
        TensorError: naming the file.
    """
    try:
        proto = onnx.load_tensor(str(path))
        array = np.ascontiguousarray(numpy_helper.to_array(proto))
    except (DecodeError, ValueError, TypeError) as error:
        raise TensorError(f"{path} holds no tensor: {error}") from error
    dtype = _DTYPES.get(proto.data_type)
    if dtype is None:
        kind = TensorProto.DataType.Name(proto.data_type)
        raise TensorError(f"{path} holds {kind}, which no op of the contract returns")
    if dtype is torch.bfloat16:
        return torch.from_numpy(array.view(np.int16).copy()).view(dtype)
    return torch.from_numpy(array.copy())
