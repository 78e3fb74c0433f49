"""A vendor's own backend class in a process that has neither its torch nor its chip."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch

from glm5_hal.backends.torch_triton.fused import FusedBackend
from glm5_hal.registry import load

CHIPS = {
    "cambricon": ((5, 0), ""),
    "hygon": ((9, 3), "gfx936:sramecc+:xnack-"),
    "kunlun": ((3, 0), ""),
    "metax": ((8, 0), ""),
    "moore_threads": ((3, 1), ""),
}


@contextmanager
def _nothing(*_: object) -> Iterator[None]:
    yield


def pretended(vendor: str, **changes: Any) -> type[FusedBackend]:
    """A fresh subclass whose device is the CPU; changes are of its capability or architecture."""
    real = load(vendor)
    assert issubclass(real, FusedBackend)
    capability, architecture = CHIPS[vendor]
    properties = SimpleNamespace(
        multi_processor_count=104, gcnArchName=changes.get("architecture", architecture)
    )
    there = SimpleNamespace(
        is_available=lambda: True,
        device_count=lambda: 1,
        get_device_capability=lambda index: changes.get("capability", capability),
        get_device_properties=lambda index: properties,
        get_device_name=lambda index: vendor,
        synchronize=lambda index: None,
        device=_nothing,
    )

    class Pretended(real):  # type: ignore[misc, valid-type]
        name = real.name

        @classmethod
        def _obstacle(cls) -> str | None:
            return None

        @classmethod
        def imports(cls) -> tuple[str, ...]:
            return ()

        @classmethod
        def _prepare(cls) -> None:
            """Nothing of the process is changed for a chip that is not there."""

        @classmethod
        def _namespace(cls) -> Any:
            return there

        @property
        def device(self) -> torch.device:
            return torch.device("cpu")

    return Pretended
