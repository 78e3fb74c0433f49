"""Sessions of ONNX Runtime: one for every signature, fed with and filling torch memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import onnxruntime
import torch
from onnx import ModelProto
from torch import Tensor

from glm5_hal.contract import Dim
from glm5_hal.errors import BackendUnavailable
from glm5_hal.exact import check_length
from glm5_hal.kernels import onnx as graphs
from glm5_hal.kernels.onnx import I8, TYPES, U8, Digits, Signature, Wide
from glm5_hal.levels import Numerics

_TENSORS = {"float": torch.float32, "double": torch.float64, "bfloat16": torch.bfloat16}
_TENSORS |= {"bool": torch.bool, "int8": torch.int8, "int32": torch.int32, "int64": torch.int64}
"""Dtypes by the runtime's names of its element types."""

LEVELS = {
    "off": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
}
"""How much the runtime may rewrite a graph."""


def session_options(numerics: Numerics, level: str | None = None) -> onnxruntime.SessionOptions:
    """Deterministic options of a profile.

    The exact profile is run as it is written: already the basic rewrites turn ``a * (1 / b)`` into
    ``a / b``, which is another number. The graphs avoid such forms, and the tests compare all
    levels, but nothing is gained by relying on that.
    """
    options = onnxruntime.SessionOptions()
    exact = numerics is Numerics.EXACT
    options.graph_optimization_level = LEVELS[level or ("off" if exact else "all")]
    options.use_deterministic_compute = True
    # planning which buffers may share memory takes time that grows with the square of the graph
    options.enable_mem_reuse = False
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # errors are raised; the log would repeat them
    # every session has threads of its own: those that wait must not keep a core busy
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.set_denormal_as_zero", "0")
    return options


class Session:
    """A compiled graph.

    Attributes:
        inputs: names of what it takes.
    """

    def __init__(self, model: ModelProto, options: onnxruntime.SessionOptions, provider: str):
        self._session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=[provider]
        )
        if self._session.get_providers()[0] != provider:
            raise BackendUnavailable("onnxruntime", f"{provider} does not start on this machine")
        self._shapes = {i.name: i.shape for i in self._session.get_inputs()}
        self._outputs = [
            (o.name, _TENSORS[o.type.removeprefix("tensor(").removesuffix(")")], o.shape)
            for o in self._session.get_outputs()
        ]

    def run(
        self,
        inputs: Mapping[str, Tensor],
        sizes: Mapping[str, int] | None = None,
        out: Sequence[Tensor] | None = None,
    ) -> tuple[Tensor, ...]:
        """Results of contiguous host tensors.

        Args:
            inputs: by name.
            sizes: dimensions of results that no input has.
            out: where the results go; default: new tensors.
        """
        dims = dict(sizes or {})
        for name, shape in self._shapes.items():
            if not shape:  # a size of its own, as max_length
                dims[name] = int(inputs[name])
            for dim, size in zip(shape, inputs[name].shape, strict=True):
                if isinstance(dim, str):
                    Dim.parse(dim).bind(size, dims)
        if out is None:
            out = tuple(
                torch.empty([d if isinstance(d, int) else dims[d] for d in shape], dtype=dtype)
                for _, dtype, shape in self._outputs
            )
        if not any(tensor.numel() for tensor in out):
            return tuple(out)
        binding = self._session.io_binding()
        for name in self._shapes:
            tensor = inputs[name]
            # an empty tensor has no address, but none is asked for what is not read
            address = tensor.data_ptr() or _NOWHERE.data_ptr()
            binding.bind_input(name, "cpu", 0, TYPES[tensor.dtype], tuple(tensor.shape), address)
        for (name, dtype, _), tensor in zip(self._outputs, out, strict=True):
            address = tensor.data_ptr()
            binding.bind_output(name, "cpu", 0, TYPES[dtype], tuple(tensor.shape), address)
        self._session.run_with_iobinding(binding)
        return tuple(out)


_NOWHERE = torch.empty(1)

_SUMMED = {
    "linear": (("x", 1),),
    "head_linear": (("x", 2),),
    "grouped_linear": (("x", 1),),
    "linear_limbs": (("x", 1),),
    "rms_norm": (("x", 1),),
    "layer_norm": (("x", 1),),
    "index_scores": (("q", 2),),
    "latent_attention": (("q_latent", 2), ("q_rope", 2)),
    "muon_orthogonalize": (("g", 1), ("g", 2)),
}
"""Dimensions that products are summed over: argument and axis."""


def _summed(op: str, arguments: Mapping[str, Any]) -> list[int]:
    """Lengths of the exact sums of a call."""
    lengths = [arguments[name].shape[axis] for name, axis in _SUMMED.get(op, ())]
    if op == "latent_attention" and arguments["indices"] is None:
        lengths.append(arguments["context"].max_length)
    return lengths


class Engine:
    """Runs ops and prepares weights in one profile on one execution provider.

    Raises:
        BackendUnavailable: the provider does not start, or its int8 products are not exact.
    """

    def __init__(self, numerics: Numerics, provider: str) -> None:
        self._numerics, self._provider = numerics, provider
        self._sessions: dict[tuple[object, int], Session] = {}
        self._left = I8 if numerics is Numerics.FAST else self._exact_left()

    def run(
        self,
        op: str,
        arguments: Mapping[str, Any],
        sizes: Mapping[str, int] | None = None,
        out: Sequence[Tensor] | None = None,
    ) -> tuple[Tensor, ...]:
        """The results of an op call; `sizes` and `out` as in `Session.run`.

        Raises:
            ContractError: a sum that is longer than the exact profile defines.
        """
        if self._numerics is Numerics.EXACT:
            for length in _summed(op, arguments):
                check_length(length)
        signature = graphs.signature_of(op, self._numerics, arguments)
        session = self._session(signature)
        return session.run(graphs.inputs_of(op, arguments), sizes, out)

    def prepare(self, tensor: Tensor) -> Digits | Wide:
        """A weight [..., N, K] as this profile multiplies by it."""
        parts = self._session((tensor.dtype, tensor.ndim, False)).run({"w": tensor.contiguous()})
        return Digits(*parts) if self._numerics is Numerics.EXACT else Wide(*parts)

    def prepare_columns(self, columns: Tensor, exponents: Tensor, finite: Tensor) -> Digits:
        """Columns of a weight [N, k], relative to the exponents of its whole rows."""
        session = self._session((columns.dtype, columns.ndim, True))
        (digits,) = session.run({"w": columns, "exponent": exponents})
        return Digits(digits, exponents, finite)

    def _session(self, what: Signature | tuple[torch.dtype, int, bool]) -> Session:
        key = (what, torch.get_num_threads())
        if key not in self._sessions:
            if isinstance(what, Signature):
                model = graphs.graph_of(what, left=self._left)
            else:
                dtype, rank, shard = what
                model = graphs.weight_graph(self._numerics, dtype, rank, shard=shard)
            options = session_options(self._numerics)
            self._sessions[key] = Session(model, options, self._provider)
        return self._sessions[key]

    def _exact_left(self) -> int:
        """The element type of left-hand digits whose products are exact here, the faster first."""
        for left in (U8, I8):
            if self._is_exact(left):
                return left
        raise BackendUnavailable(
            "onnxruntime",
            f"MatMulInteger of {self._provider} is not exact on this machine, so the exact "
            "profile is not; the fast profile does not use it",
        )

    def _is_exact(self, left: int) -> bool:
        """Try products that saturating instructions, or a float32 sum, get wrong."""
        options = session_options(self._numerics)
        session = Session(graphs.product_graph(left), options, self._provider)
        place = torch.arange(2051)
        lowest, highest = torch.full_like(place, -128), torch.full_like(place, 127)
        mixed = torch.where(place % 2 == 0, lowest, highest)
        vectors = torch.stack((lowest, highest, mixed, place % 251 - 125)).to(torch.int8)
        y = vectors.repeat(9, 1).T.unsqueeze(0).contiguous()
        for rows in (1, 5, 70):  # one row, few and many are different code
            x = vectors.repeat(rows, 1)[:rows].unsqueeze(0)
            (found,) = session.run({"x": x, "y": y})
            if not torch.equal(found.long(), x.long() @ y.long()):
                return False
        return True
