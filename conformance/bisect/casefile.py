"""A call with its expected bytes as one safetensors file, which any machine can ask again.

Tensors are named by their argument (``argument.x``, ``argument.context.lengths``) and result
(``expected.0``, and ``found.0`` as the judged backend gave it); everything else stands in the
metadata as JSON.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from glm5_hal import CONTRACT_VERSION, PagedContext, WeightRole
from glm5_hal.conformance.bisect import layout
from glm5_hal.conformance.bisect.observed import Results
from glm5_hal.conformance.call import CacheValue, Call, WeightValue
from glm5_hal.conformance.errors import AskedError
from glm5_hal.contract import OPS

FORMAT = "glm5-hal bisect case 1"
_CONTEXT = ("page_table", "sequence", "lengths")


class CaseFileError(AskedError):
    """A file that holds no case, or one of another version."""


@dataclass(frozen=True)
class CaseFile:
    """A case.

    Attributes:
        call: what to ask.
        expected: results that are right.
        found: what the judged backend gave; empty if it raised.
        numerics: profile in which to ask.
        place: part of the model in which the call stood.
        site: name of the call in the run it is from.
        backends: names of the judged backend and of the other one.
        requirements: ids that it breaks, as far as known.
    """

    call: Call
    expected: Results
    found: Results
    numerics: str
    place: str
    site: str
    backends: tuple[str, str]
    requirements: tuple[str, ...]

    def content(self) -> tuple[dict[str, Tensor], dict[str, str]]:
        """Tensors and metadata, to be written."""
        tensors, described = pack(self.call, self.expected)
        tensors |= {f"found.{n}": part.contiguous() for n, part in enumerate(self.found)}
        return tensors, {
            "format": FORMAT,
            "contract_version": str(CONTRACT_VERSION),
            "numerics": self.numerics,
            "place": self.place,
            "site": self.site,
            "backends": json.dumps(self.backends),
            "requirements": json.dumps(self.requirements),
            "call": json.dumps(described),
        }


def pack(call: Call, expected: Results) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A call and its results as tensors, and as JSON what tensors do not say."""
    tensors: dict[str, Tensor] = {}
    arguments = {
        name: _describe(f"argument.{name}", value, tensors)
        for name, value in call.arguments.items()
    }
    tensors |= {f"expected.{n}": part.contiguous() for n, part in enumerate(expected)}
    return tensors, {"op": call.op, "arguments": arguments}


def unpack(described: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> tuple[Call, Results]:
    """What `pack` made of a call and its results."""
    op = OPS[described["op"]].name
    arguments = {
        name: _restore(f"argument.{name}", value, tensors)
        for name, value in described["arguments"].items()
    }
    return Call(op, arguments), _results("expected", tensors)


def read(path: Path) -> CaseFile:
    """Read a case.

    Raises:
        CaseFileError: the file cannot be read, is no case, or is of another version.
    """
    try:
        with safe_open(path, framework="pt") as file:
            facts = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise CaseFileError(f"{path} cannot be read as safetensors: {error}") from None
    if facts.get("format") != FORMAT:
        raise CaseFileError(
            f"{path} is not a case of `glm5-hal bisect` (format {facts.get('format')!r}, expected "
            f"{FORMAT!r})"
        )
    if facts.get("contract_version") != str(CONTRACT_VERSION):
        raise CaseFileError(
            f"{path} is of contract version {facts.get('contract_version')}, this is "
            f"{CONTRACT_VERSION}; bisect again with this version"
        )
    try:
        return _case(facts, tensors)
    except (KeyError, ValueError, TypeError) as error:
        raise CaseFileError(f"{path} is damaged: {type(error).__name__}: {error}") from None


def _case(facts: Mapping[str, str], tensors: Mapping[str, Tensor]) -> CaseFile:
    call, expected = unpack(json.loads(facts["call"]), tensors)
    judged, against = json.loads(facts["backends"])
    return CaseFile(
        call=call,
        expected=expected,
        found=_results("found", tensors),
        numerics=facts["numerics"],
        place=facts["place"],
        site=facts["site"],
        backends=(judged, against),
        requirements=tuple(json.loads(facts["requirements"])),
    )


def _results(kind: str, tensors: Mapping[str, Tensor]) -> Results:
    count = sum(name.startswith(f"{kind}.") for name in tensors)
    return tuple(tensors[f"{kind}.{number}"] for number in range(count))


def _describe(name: str, value: Any, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """An argument as JSON; its tensors are put aside."""
    if isinstance(value, Tensor):
        tensors[name] = value.contiguous().clone()
        return {"kind": "tensor", "strides": list(value.stride())}
    if isinstance(value, WeightValue):
        tensors[name] = value.tensor.contiguous().clone()
        return {"kind": "weight", "role": value.role.value}
    if isinstance(value, CacheValue):
        tensors[name] = value.rows.contiguous().clone()
        return {"kind": "cache", "page_size": value.page_size}
    if isinstance(value, PagedContext):
        for part in _CONTEXT:
            tensors[f"{name}.{part}"] = getattr(value, part).contiguous().clone()
        return {"kind": "context", "max_length": value.max_length}
    if isinstance(value, torch.dtype):
        return {"kind": "dtype", "value": str(value).removeprefix("torch.")}
    return {"kind": "plain", "value": value}


def _restore(name: str, described: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Any:
    kind = described["kind"]
    if kind == "tensor":
        return layout.lay(tensors[name], tuple(described["strides"]))
    if kind == "weight":
        return WeightValue(WeightRole(described["role"]), tensors[name])
    if kind == "cache":
        return CacheValue(tensors[name], int(described["page_size"]))
    if kind == "context":
        parts = {part: tensors[f"{name}.{part}"] for part in _CONTEXT}
        return PagedContext(**parts, max_length=int(described["max_length"]))
    if kind == "dtype":
        return {str(d).removeprefix("torch."): d for d in (torch.float32, torch.bfloat16)}[
            described["value"]
        ]
    if kind == "plain":
        return described["value"]
    raise ValueError(f"{name} is of the unknown kind {kind!r}")
