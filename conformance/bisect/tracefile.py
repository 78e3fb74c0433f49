"""A trace as one safetensors file: prints of every call, and the calls that were kept whole.

Digests are 32 bytes each and stand once in the file, however often a tensor is passed on; the
calls are JSON, compressed. The file's metadata say of what the trace is.
"""

import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from glm5_hal import CONTRACT_VERSION
from glm5_hal.conformance.bisect import casefile
from glm5_hal.conformance.bisect.matching import TracesApartError
from glm5_hal.conformance.bisect.observed import Results
from glm5_hal.conformance.bisect.sites import Site
from glm5_hal.conformance.bisect.traces import Given, Print, Recorder, Traced
from glm5_hal.conformance.call import Call
from glm5_hal.conformance.errors import AskedError

FORMAT = "glm5-hal trace 1"


class TraceFileError(AskedError):
    """A file that holds no trace, or not all of one."""


@dataclass(frozen=True)
class Origin:
    """Of what a trace is.

    Attributes:
        backend: name and index.
        plan_hash: of the run's plan.
        numerics: profile.
        contract_version: of the op contract.
        checkpoint: directory as it was given.
        weights: name in the model to the digest of each weight as it was loaded.
        ids: token ids of each sequence.
        options: what else the numbers depend on, where it was given.
        command: what was typed for it, without --tensors.
    """

    backend: str
    plan_hash: str
    numerics: str
    contract_version: int
    checkpoint: str
    weights: Mapping[str, str]
    ids: Sequence[Sequence[int]]
    options: Mapping[str, str]
    command: str

    @property
    def checkpoint_digest(self) -> str:
        """SHA-256 over the names and digests of the weights."""
        lines = "".join(f"{name} {digest}\n" for name, digest in sorted(self.weights.items()))
        return hashlib.sha256(lines.encode()).hexdigest()


@dataclass(frozen=True)
class Trace:
    """A trace.

    Attributes:
        origin: of what it is.
        calls: in order.
        kept: calls that are there whole, with their results, by name.
    """

    origin: Origin
    calls: tuple[Traced, ...]
    kept: Mapping[str, tuple[Call, Results]]


def content(origin: Origin, recorder: Recorder) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a trace, to be written."""
    table = _Table()
    calls = [table.packed(call) for call in recorder.calls]
    kept: dict[str, Any] = {}
    tensors: dict[str, Tensor] = {}
    for name, (call, results) in recorder.kept.items():
        parts, kept[name] = casefile.pack(call, results)
        tensors |= {f"{name}|{part}": tensor for part, tensor in parts.items()}
    index = {
        "calls": calls,
        "forms": table.forms,
        "kept": kept,
        "weights": dict(origin.weights),
    }
    packed = zlib.compress(json.dumps(index, separators=(",", ":")).encode(), 9)
    tensors["index"] = torch.frombuffer(bytearray(packed), dtype=torch.uint8)
    raw = bytearray(b"".join(map(bytes.fromhex, table.digests)))
    tensors["digests"] = torch.frombuffer(raw, dtype=torch.uint8).view(-1, 32)
    facts = {
        "format": FORMAT,
        "backend": origin.backend,
        "plan_hash": origin.plan_hash,
        "numerics": origin.numerics,
        "contract_version": origin.contract_version,
        "checkpoint": origin.checkpoint,
        "checkpoint_digest": origin.checkpoint_digest,
        "ids": origin.ids,
        "options": dict(origin.options),
        "command": origin.command,
        "sha256": _sum(tensors),
    }
    # one entry: several would be written in another order each time
    return tensors, {"trace": json.dumps(facts, sort_keys=True)}


def _sum(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of index and digests: what tells a damaged file from a backend's fault."""
    total = hashlib.sha256(tensors["index"].numpy().tobytes())
    total.update(tensors["digests"].contiguous().numpy().tobytes())
    return total.hexdigest()


class _Table:
    """Every print once, by number."""

    def __init__(self) -> None:
        self.digests: list[str] = []
        self.forms: list[Any] = []
        self._numbers: dict[Print, int] = {}

    def packed(self, call: Traced) -> list[Any]:
        """A call, its prints as numbers and its other arguments as text."""
        site = call.site
        given = {n: self._number(v) if isinstance(v, Print) else v for n, v in call.given.items()}
        gave = [self._number(part) for part in call.gave]
        return [site.op, site.place, site.number, site.step, site.within, given, gave]

    def _number(self, value: Print) -> int:
        if value not in self._numbers:
            self._numbers[value] = len(self.digests)
            self.digests.append(value.sha256)
            self.forms.append([value.dtype, list(value.shape)])
        return self._numbers[value]


def read(path: Path) -> Trace:
    """Read a trace.

    Raises:
        TraceFileError: the file cannot be read, is no trace, is damaged or of another version.
    """
    try:
        with safe_open(path, framework="pt") as file:
            facts = _facts(file.metadata())
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise TraceFileError(f"{path} does not exist; `glm5-hal trace` writes traces") from None
    except (OSError, SafetensorError) as error:
        raise TraceFileError(
            f"{path} cannot be read: {error}. It is no trace, or not all of one: copy it again"
        ) from None
    if facts.get("format") != FORMAT:
        found = facts.get("format")
        raise TraceFileError(
            f"{path} is not a trace that this version reads (format {found!r}, expected "
            f"{FORMAT!r}); trace again with `glm5-hal trace`"
        )
    try:
        if _sum(tensors) != facts["sha256"]:
            raise TraceFileError(f"{path} is damaged: its digest is not that of what it holds")
        return _trace(facts, tensors)
    except (KeyError, ValueError, TypeError, IndexError, zlib.error) as error:
        raise TraceFileError(f"{path} is damaged: {type(error).__name__}: {error}") from None


def _facts(metadata: Mapping[str, str] | None) -> dict[str, Any]:
    """What the file says of itself; empty where it is no trace."""
    try:
        facts = json.loads((metadata or {}).get("trace", "{}"))
    except ValueError:
        return {}
    return facts if isinstance(facts, dict) else {}


def _trace(facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Trace:
    index = json.loads(zlib.decompress(tensors["index"].numpy().tobytes()))
    digests = [bytes(row).hex() for row in tensors["digests"].numpy()]
    prints = [
        Print(dtype, tuple(shape), digest)
        for (dtype, shape), digest in zip(index["forms"], digests, strict=True)
    ]
    kept = {}
    for name, described in index["kept"].items():
        parts = {k.split("|", 1)[1]: t for k, t in tensors.items() if k.startswith(f"{name}|")}
        kept[name] = casefile.unpack(described, parts)
    origin = Origin(
        backend=facts["backend"],
        plan_hash=facts["plan_hash"],
        numerics=facts["numerics"],
        contract_version=facts["contract_version"],
        checkpoint=facts["checkpoint"],
        weights=index["weights"],
        ids=facts["ids"],
        options=facts["options"],
        command=facts["command"],
    )
    return Trace(origin, tuple(_call(packed, prints) for packed in index["calls"]), kept)


def _call(packed: Sequence[Any], prints: Sequence[Print]) -> Traced:
    op, place, number, step, within, given, gave = packed
    known: dict[str, Given] = {n: prints[v] if isinstance(v, int) else v for n, v in given.items()}
    return Traced(
        Site(op, place, number, step, within), known, tuple(prints[part] for part in gave)
    )


def check_pair(judged: Trace, against: Trace) -> None:
    """Refuse two traces that cannot be compared.

    Raises:
        TracesApartError: saying in what they differ, and what to do.
    """
    mine, theirs = judged.origin, against.origin
    for name in ("contract_version", "numerics"):
        _same(name.replace("_", " "), getattr(mine, name), getattr(theirs, name))
    if mine.contract_version != CONTRACT_VERSION:
        raise TracesApartError(
            f"the traces are of contract version {mine.contract_version}, this is "
            f"{CONTRACT_VERSION}; compare them with the version that wrote them"
        )
    for name in dict.fromkeys([*mine.options, *theirs.options]):
        _same(f"--{name}", *(o.options.get(name, "none") for o in (mine, theirs)))
    if mine.ids != theirs.ids:
        raise TracesApartError(f"{_ids(mine.ids, theirs.ids)}; trace both with the same file")
    if mine.checkpoint_digest != theirs.checkpoint_digest:
        raise TracesApartError(_weights(mine, theirs))


def _same(what: str, mine: object, theirs: object) -> None:
    if mine != theirs:
        raise TracesApartError(
            f"the traces differ in {what}: {mine} in the first, {theirs} in the second; trace both "
            "with the same"
        )


def _ids(mine: Sequence[Sequence[int]], theirs: Sequence[Sequence[int]]) -> str:
    if len(mine) != len(theirs):
        return f"the traces are of {len(mine)} and of {len(theirs)} sequences"
    row = next(row for row, pair in enumerate(zip(mine, theirs, strict=True)) if pair[0] != pair[1])
    return f"the token ids of sequence {row} differ"


def _weights(mine: Origin, theirs: Origin) -> str:
    names = sorted(dict.fromkeys([*mine.weights, *theirs.weights]))
    apart = [name for name in names if mine.weights.get(name) != theirs.weights.get(name)]
    return (
        f"the checkpoints differ ({mine.checkpoint} and {theirs.checkpoint}): {len(apart)} of "
        f"{len(names)} weights are others, the first is {apart[0]}; compare the files, or how this "
        "machine reads them"
    )
