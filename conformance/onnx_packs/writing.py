"""Making a pack: every check is run once on the definitions, and what it asks is written down."""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from glm5_hal.conformance.case import Case, Status
from glm5_hal.conformance.data import SEED
from glm5_hal.conformance.errors import ConformanceError, UnusableError
from glm5_hal.conformance.families.judging import raw_digests
from glm5_hal.conformance.judge import judge
from glm5_hal.conformance.manifest import encode, suite_facts
from glm5_hal.conformance.onnx_packs import layout, tensors
from glm5_hal.conformance.onnx_packs.calls import (
    AskedCall,
    RecordingRuntime,
    Results,
    fingerprint,
    is_empty,
)
from glm5_hal.conformance.selection import Selection
from glm5_hal.conformance.suite import Suite
from glm5_hal.contract import OPS, Kind
from glm5_hal.kernels.onnx import BUILDERS, OPSET, graph_of
from glm5_hal.kernels.onnx.composite import graph_of_composite
from glm5_hal.kernels.onnx.standard import IR_VERSION
from glm5_hal.levels import Numerics
from glm5_hal.staging import new_directory

RELATIONS = ("parity", "accuracy", "invariance")
"""What can be judged by one answer to each call."""

Progress = Callable[[int, int], None]


class PackWriteError(ConformanceError):
    """A pack that cannot be made: a defect of the suite itself."""


@dataclass
class _Asked:
    """What one check asked."""

    calls: list[tuple[AskedCall, Results]] = field(default_factory=list)
    given: set[bytes] = field(default_factory=set)
    fed_back: bool = False

    def take(self, call: AskedCall, results: Results) -> None:
        """Note a call, and whether an earlier result is among its inputs."""
        seen = {fingerprint(part) for part in call.inputs.values() if part.is_floating_point()}
        self.fed_back |= bool(seen & self.given)
        # what a call only passes on is no result of it
        self.given |= {fingerprint(part) for part in results} - seen
        self.calls.append((call, results))


class _Writer:
    """Writes models and data sets, each once."""

    def __init__(self, folder: Path, profile: Numerics, opset: int) -> None:
        self._folder, self._profile, self._opset = folder, profile, opset
        self._models: dict[str, int] = {}
        self.data_sets: dict[str, layout.DataSet] = {}

    def add(self, call: AskedCall, results: Results) -> str:
        """The folder of a call's data set."""
        known = self.data_sets.get(call.key)
        if known is not None:
            return known.folder
        model = f"{call.op}-{self._model_key(call)[:8]}"
        if model not in self._models:
            self._models[model] = 0
            (self._folder / model).mkdir()
            made = self._build(call).SerializeToString(deterministic=True)
            (self._folder / model / layout.MODEL_FILE).write_bytes(made)
        folder = f"{model}/test_data_set_{self._models[model]}"
        self._models[model] += 1
        self._write(self._folder / folder, call.inputs, results)
        hashes = raw_digests(results).values()
        outputs = tuple(
            layout.Output(str(part.dtype).removeprefix("torch."), tuple(part.shape), digest)
            for part, digest in zip(results, hashes, strict=True)
        )
        self.data_sets[call.key] = layout.DataSet(folder, call.key, outputs)
        return folder

    def _model_key(self, call: AskedCall) -> str:
        """Calls of one key share a model: sizes matter where a composite is written down."""
        text = repr(call.signature)
        if call.op not in BUILDERS:
            text += repr({name: tuple(part.shape) for name, part in call.inputs.items()})
        return hashlib.sha256(text.encode()).hexdigest()

    def _build(self, call: AskedCall) -> Any:
        if call.op in BUILDERS:
            return graph_of(call.signature, self._opset)
        return graph_of_composite(call.op, self._profile, call.arguments, self._opset)

    def _write(self, folder: Path, inputs: Mapping[str, Tensor], results: Results) -> None:
        folder.mkdir()
        model = folder.parent / layout.MODEL_FILE
        for place, name in enumerate(input_names(model)):
            tensors.save(name, inputs[name], folder / layout.input_file(place))
        for place, part in enumerate(results):
            tensors.save(f"y{place}", part, folder / layout.output_file(place))


def input_names(model: Path) -> list[str]:
    """Names of a model's inputs, in order."""
    import onnx

    return [entry.name for entry in onnx.load(str(model)).graph.input]


def export(
    out: Path,
    selection: Selection,
    catalogue: Mapping[str, Case],
    *,
    opset: int = OPSET,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write a pack into a new or empty directory; returns its manifest.

    Raises:
        AskedError: an op or a case that does not exist.
        UnusableError: no selected case can be packed.
        FileExistsError: the directory holds something.
        PackWriteError: a check fails on the definitions themselves.
    """
    selected = list(selection.of(catalogue).values())
    packed: dict[str, layout.PackedCase] = {}
    left_out: dict[str, str] = {}
    with new_directory(out) as folder:
        writer = _Writer(folder, selection.profile, opset)
        for done, case in enumerate(selected):
            if progress is not None:
                progress(done, len(selected))
            asked = _Asked()
            reason = _never(case) or _record(case, asked)
            if reason:
                left_out[case.id] = reason
            else:
                packed[case.id] = _packed(case, [writer.add(*call) for call in asked.calls])
        if not packed:
            raise UnusableError(f"no selected case can be packed: {_tally(left_out.values())}")
        content = _manifest(selection, opset, writer.data_sets.values(), packed, left_out)
        for name, source in layout.BESIDE.items():
            (folder / name).write_bytes(Path(__file__).with_name(source).read_bytes())
        content["files"] = {
            path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
        (folder / layout.MANIFEST_FILE).write_bytes(encode(content))
    return content


def _never(case: Case) -> str:
    """Why a case can be in no pack; empty if it may."""
    if case.op not in OPS:
        return "a whole model: `glm5-hal export-onnx` writes one"
    if case.relation not in RELATIONS:
        return "asks the same call again, or watches it: a pack holds one answer to each"
    if case.op not in BUILDERS and OPS[case.op].kind is not Kind.COMPOSITE:
        return f"{case.op} has no graph: attention is written in absorbed form only"
    return ""


def _record(case: Case, asked: _Asked) -> str:
    """Run a check on the definitions; why it cannot be packed, empty if it can."""
    result = judge(case, RecordingRuntime(case.profile, asked.take))
    if result.status is not Status.PASS:
        raise PackWriteError(f"{case.id} fails on the definitions: {result.message}")
    if not asked.calls:
        return "asks nothing of a backend"
    if any(is_empty(call.inputs) or is_empty(results) for call, results in asked.calls):
        return "has a tensor without elements, on which runtimes of the standard differ"
    if asked.fed_back and case.profile is Numerics.FAST:
        return "feeds results back, which in the fast profile are the runtime's own"
    return ""


def _packed(case: Case, folders: Iterable[str]) -> layout.PackedCase:
    by_bound = case.profile is Numerics.FAST and case.relation == "accuracy"
    return layout.PackedCase(
        id=case.id,
        requirement=case.requirement,
        op=case.op,
        relation=case.relation,
        judged="bound" if by_bound else "bytes",
        data_sets=tuple(dict.fromkeys(folders)),
    )


def _tally(reasons: Iterable[str]) -> str:
    return "; ".join(sorted(set(reasons)))


def _manifest(
    selection: Selection,
    opset: int,
    data_sets: Iterable[layout.DataSet],
    packed: Mapping[str, layout.PackedCase],
    left_out: Mapping[str, str],
) -> dict[str, Any]:
    return {
        "format": layout.FORMAT,
        **suite_facts(Suite.here()),
        **selection.to_dict(),
        "opset": opset,
        "ir_version": IR_VERSION,
        "seeds": {"data": SEED},
        "data_sets": {entry.folder: entry.to_dict() for entry in data_sets},
        "cases": {name: case.to_dict() for name, case in packed.items()},
        "left_out": dict(left_out),
    }
