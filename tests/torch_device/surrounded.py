"""A process that only pretends, and a chip in it whose device is the CPU."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch

from glm5_hal.backends.torch_triton.descriptor import Descriptor, parse
from glm5_hal.backends.torch_triton.device import TorchDeviceBackend


@dataclass
class Around:
    """Surroundings as a test wants them: attributes by path, everything else absent."""

    attributes: Mapping[str, object] = field(default_factory=dict)
    modules: frozenset[str] = frozenset()
    loaded: frozenset[str] = frozenset()
    environment: Mapping[str, str] = field(default_factory=dict)

    def installed(self, module: str) -> bool:
        return module in self.modules

    def imported(self, module: str) -> bool:
        return module in self.loaded

    def attribute(self, path: str) -> object:
        return self.attributes.get(path)


CHIP: dict[str, Any] = {
    "vendor": "Acme",
    "device_type": "cpu",
    "collectives": "gloo",
    "graphs": "Recording",
    "visible": {"variables": ["ACME_VISIBLE_DEVICES"]},
    "triton": {"package": "triton", "target": "acme", "warp_size": 32},
    "numbers": {
        "float64": "native",
        "int64": "native",
        "subnormals": "kept",
        "float32_products": "ieee",
    },
    "rules": [
        {"fact": "torch.version.acme", "present": True, "otherwise": "this torch knows no Acme"}
    ],
    "variables": [
        {
            "variable": "ACME_DETERMINISTIC",
            "accepts": ["1", "yes"],
            "before": "device",
            "why": "atomics otherwise",
        }
    ],
    "flags": [{"flag": "torch.acme.fast_math", "value": False, "why": "approximate division"}],
    "tiles": {"1.0": "large.yaml", "2.0": "small.yaml"},
}


class Recording:
    """What a graph is on this chip: the work, to be done again."""

    def __init__(self) -> None:
        self.replays = 0

    def replay(self) -> None:
        self.replays += 1


class Stream:
    def wait_stream(self, other: "Stream") -> None:
        pass


@contextmanager
def _nothing(*_: object) -> Iterator[None]:
    yield


def namespace(capabilities: tuple[tuple[int, int], ...] = ((1, 0),), present: bool = True) -> Any:
    """torch's module of the chip, with a device of each capability."""
    return SimpleNamespace(
        is_available=lambda: present,
        device_count=lambda: len(capabilities),
        get_device_capability=lambda index: capabilities[index],
        get_device_name=lambda index: f"Acme {capabilities[index][0]}",
        synchronize=lambda index: None,
        device=_nothing,
        Stream=Stream,
        current_stream=Stream,
        stream=_nothing,
        graph=_nothing,
        Recording=Recording,
    )


def chip(around: Around, there: Any, **changes: Any) -> type[TorchDeviceBackend]:
    """A backend class for the pretended chip, with changes to its yaml; None leaves a key out."""

    class Acme(TorchDeviceBackend):
        name = "acme"
        _package = "glm5_hal.backends.triton_interpret"  # tables of tiles

        @classmethod
        def _descriptor(cls) -> Descriptor:
            record = {**CHIP, **changes}
            kept = {key: value for key, value in record.items() if value is not None}
            return parse(kept, "acme/backend.yaml")

        @classmethod
        def _around(cls) -> Around:
            return around

        @classmethod
        def _namespace(cls) -> Any:
            return there

        @property
        def device(self) -> torch.device:
            return torch.device("cpu")

    return Acme
