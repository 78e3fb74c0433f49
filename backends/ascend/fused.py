"""torch_npu's fused functions as the base of chips with such libraries wants them."""

import functools
from collections.abc import Callable
from typing import Any

from glm5_hal import Backend
from glm5_hal.backends.ascend import fused_attention, fused_moe, fused_rows
from glm5_hal.backends.ascend.records import Facts, Record, table
from glm5_hal.backends.torch_triton.fused import Fused, Library
from glm5_hal.contract import OPS
from glm5_hal.env import Variable

VARIABLE = Variable(
    "GLM5_HAL_ASCEND_FUSED",
    "none, all or ops by commas",
    "ops whose promises all have a source",
    "Ops of the fast profile that torch_npu's fused functions compute; the backend's README says "
    "which promises of the others are not established.",
)
TORCH_NPU = Library("torch-npu", 'by pip install "glm5-hal[ascend]" beside CANN')
_MODULES = (fused_attention, fused_moe, fused_rows)


def _of(name: str) -> Any:
    """The function of one of the modules."""
    return next(getattr(module, name) for module in _MODULES if hasattr(module, name))


def _fused(record: Record) -> Fused:
    call, facts = _of(record.op), _of(f"{record.op}_facts")
    return Fused(
        op=record.op,
        function=f"torch_npu:torch.ops.npu.{record.function}",
        library=TORCH_NPU,
        parameters=record.parameters,
        source="Ascend/op-plugin@517f2e7d",
        established={key: one.kept for key, one in record.promises.items() if one.kept},
        open={key: one.unknown for key, one in record.promises.items() if one.unknown},
        call=_call(record.op, call),
        obstacle=_obstacle(record, facts),
    )


def _call(op: str, call: Callable[..., Any]) -> Callable[..., Any]:
    """`call`, except where there is no row: the functions take no empty tensors."""

    @functools.wraps(call)
    def run(function: Callable[..., Any], backend: Backend, *args: Any, **named: Any) -> Any:
        arguments = OPS[op].signature.bind(*args, **named).arguments
        if next(iter(arguments.values())).shape[0]:
            return call(function, backend, **arguments)
        from glm5_hal.backends.torch_triton.fast import FastOps  # imports triton

        return getattr(FastOps, op)(backend, **arguments)

    return run


def _obstacle(record: Record, facts: Callable[..., Facts]) -> Callable[..., str | None]:
    def obstacle(backend: Any, *args: Any, **named: Any) -> str | None:
        stated = facts(**OPS[record.op].signature.bind(*args, **named).arguments)
        return record.obstacle({"generation": backend._generation, **stated})

    return obstacle


FUSED = tuple(_fused(record) for record in table().records.values())
