"""Holds every fused call to the real torch_npu: ``python check_calls.py [--out FILE]``.

Run by `nox -s ascend`, where torch-npu is installed and libraries stand in for CANN's. The
backend's own methods run on tensors without memory; what they hand to torch_npu is recorded,
parsed by the real signature and answered by the real meta kernel. What they return must fit the
contract. No value is ever computed, so this shows nothing about a chip.
"""

import argparse
import importlib.metadata
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch_npu  # noqa: F401 - registers torch.ops.npu
from torch import Tensor

from glm5_hal import Numerics
from glm5_hal.backends.ascend.backend import AscendBackend
from glm5_hal.backends.ascend.fused import FUSED, VARIABLE
from glm5_hal.backends.torch_triton.fused import Fused
from glm5_hal.conformance.static_seal import sealed
from glm5_hal.contract import OPS
from glm5_hal.kernels.triton.target import Target, read_target

sys.path.insert(0, str(Path(__file__).parent))

from real_calls import OPS_CALLED, Sizes, calls
from signatures import signatures

CHIP = "Ascend910B3"
_HERE = "glm5_hal/backends/ascend"
_JUDGED = (
    *(f"{_HERE}/{name}" for name in ("fused", "records.py", "halved_caches.py")),
    "glm5_hal/backends/torch_triton/fused.py",
)
"""Files that the evidence speaks of."""
MADE: list["Checked"] = []
"""Calls, in order."""


@dataclass(frozen=True)
class Checked:
    """One call of torch_npu that the backend makes.

    Attributes:
        op: whose implementation makes it.
        function: the function.
        arguments: by the signature's names, tensors by dtype and shape.
        results: what the meta kernel answers.
    """

    op: str
    function: str
    arguments: Mapping[str, str]
    results: tuple[str, ...]

    def __str__(self) -> str:
        given = ", ".join(f"{name}={value}" for name, value in self.arguments.items())
        return f"{self.op}: {self.function}({given}) -> {', '.join(self.results)}"


class NotTaken(Exception):  # noqa: N818 - an answer, not an error
    """A call is left to the portable kernel."""


class Recording(Fused):
    """A fused function whose calls are noted."""

    def load(self) -> Callable[..., Any]:
        function: Any = super().load()

        def recorded(*args: Any, **kwargs: Any) -> Any:
            results = function(*args, **kwargs)
            named = dict(zip((a.name for a in _schema(function).arguments), args, strict=False))
            arguments = {name: _shown(value) for name, value in {**named, **kwargs}.items()}
            parts = (results,) if isinstance(results, Tensor) else tuple(results)
            shown = tuple(_shown(part) for part in parts)
            MADE.append(Checked(self.op, function.__name__, arguments, shown))
            return results

        return recorded


class OnMeta(AscendBackend):
    """The backend where tensors have no memory."""

    name = "ascend"
    _fused = tuple(
        Recording(**{part.name: getattr(fused, part.name) for part in fields(Fused)})
        for fused in FUSED
    )

    @classmethod
    def _prepare(cls) -> None:
        """There is no device."""

    @classmethod
    def _targets(cls) -> dict[str, Target]:
        return {"": read_target("glm5_hal.backends.ascend", "tiles.yaml")}

    def _check_tiles(self) -> None:
        """There is no device."""

    @classmethod
    def _namespace(cls) -> Any:
        return SimpleNamespace(device=nullcontext, get_device_name=lambda index: CHIP)

    @property
    def device(self) -> torch.device:
        return torch.device("meta")

    def _tell(self, op: str, reason: str) -> None:
        raise NotTaken(reason)


def _schema(function: Any) -> Any:
    return function.default._schema


def _shown(value: Any) -> str:
    if isinstance(value, Tensor):
        assert value.is_meta, "a tensor with memory reached torch_npu"
        return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{', '.join(_shown(part) for part in value)}]"
    return repr(value)


def check_signatures() -> list[str]:
    """Where schemas.yaml differs from the wheel."""
    problems = []
    for name, signature in signatures().items():
        real = _schema(getattr(torch.ops.npu, name))
        if torch._C.parse_schema(f"npu::{signature}") != real:
            problems.append(f"schemas.yaml: {name} is {real}")
    return problems


def check_calls(sizes: Sizes) -> tuple[list[Checked], list[str]]:
    """What is called at these sizes, and what is left to portable kernels, with the reason."""
    backend = OnMeta.in_profile(Numerics.FAST)()
    MADE.clear()
    left = []
    for op in OPS_CALLED:
        for arguments in calls(op, backend, sizes):
            dims = OPS[op].check_arguments((), arguments)
            before = len(MADE)
            try:
                result = getattr(backend, op)(**arguments)
            except NotTaken as reason:
                left.append(f"{op}: {reason}")
                continue
            OPS[op].check_result(result, dims, "torch_npu")
            assert len(MADE) == before + 1, f"{op} does not make one call"
    return list(MADE), left


def _joined(known: list[Any], more: list[Any]) -> list[Any]:
    """Both lists without what stands there already."""
    joined = list(known)
    for one in more:
        if one not in joined:
            joined.append(one)
    return joined


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, help="file that takes the evidence, JSON")
    out: Path | None = parser.parse_args().out
    os.environ[VARIABLE.name] = "all"
    problems = check_signatures()
    made: list[Checked] = []
    left: list[str] = []
    for dtype in (torch.bfloat16, torch.float32):
        for groups in (1, 8):
            found = check_calls(replace(Sizes(), dtype=dtype, groups=groups))
            made, left = _joined(made, found[0]), _joined(left, found[1])
    never = {fused.op for fused in FUSED} - {call.op for call in made}
    problems += [f"{op}: no call reached torch_npu" for op in sorted(never)]
    print(*made, sep="\n")
    print(*(f"portable kernel: {reason}" for reason in left), sep="\n")
    if problems:
        print(*problems, sep="\n", file=sys.stderr)
        return 1
    print(f"{len(made)} calls of {len(FUSED)} functions fit torch-npu's signatures")
    if out is not None:
        out.write_text(json.dumps(_evidence(made, left), indent=1) + "\n", encoding="utf-8")
    return 0


def _evidence(made: list[Checked], left: list[str]) -> dict[str, Any]:
    """For the support matrix."""
    document = {
        "evidence": "static",
        "kind": "schema check",
        "note": "parsed by torch_npu's signatures, answered by its meta kernels; nothing computed",
        "backend": AscendBackend.name,
        "compiler": f"torch-npu {importlib.metadata.version('torch-npu')}",
        "target": f"torch {importlib.metadata.version('torch')}",
        "findings": [
            {"op": call.op, "profile": Numerics.FAST.value, "verdict": "ok", **asdict(call)}
            for call in made
        ],
        "portable": left,
    }
    return sealed(document, about=_JUDGED)


if __name__ == "__main__":
    sys.exit(main())
