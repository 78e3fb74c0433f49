"""Writing the graphs of a model, its weights and what is needed to run them without this package.

The graphs are made by running the model itself on a backend that makes nodes, so they are the same
code. Prefill takes the tokens of any number of sequences, decode one token of each; both take the
caches and return them. A directory is written whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from onnx import checker

from glm5_hal import CONTRACT_VERSION, Cache, HalError, Runtime
from glm5_hal.handles import PagedContext
from glm5_hal.kernels.onnx import I8, OPSET, TYPES, U8, opset_problem
from glm5_hal.kernels.onnx.builder import I32, I64, Graph, Value
from glm5_hal.kernels.onnx.standard import IR_VERSION
from glm5_hal.kernels.onnx.tracing import Recording, Traced
from glm5_hal.levels import Numerics
from glm5_hal.model.glm5 import GLM5
from glm5_hal.model.kv_cache import PAGE_SIZE, KVCache, Step
from glm5_hal.model.load import load_model
from glm5_hal.model.onnx_export.tensor_file import TensorFile
from glm5_hal.model.onnx_export.weights import Exporter, Keeper, enter, named_tensors
from glm5_hal.model.weights import Progress
from glm5_hal.plan import make_plan, package_version
from glm5_hal.staging import new_directory

FORMAT = 1
"""Version of the directory's layout."""
MANIFEST_FILE = "manifest.json"
WEIGHTS_FILE = "weights.safetensors"
GRAPHS = ("prefill", "decode")
DIGITS = {"int8": I8, "uint8": U8}
"""Element types that the left side of a product of digits may have."""

_BESIDE = {"README.md": "export_readme.md", "run_example.py": "run_example.py"}
"""Files for who runs the graphs, and where their text stands here."""
_SCRATCH = "weights.part"


class ExportError(HalError):
    """A model that cannot be exported as asked."""


@dataclass(frozen=True)
class Example:
    """What a run of the exported model can be held against.

    Attributes:
        ids: one sequence.
        sha256: of its logits, as ``glm5-hal logits`` prints it.
    """

    ids: tuple[int, ...]
    sha256: str


@dataclass(frozen=True)
class Form:
    """How a model is written down.

    Attributes:
        numerics: the profile.
        opset: version of the standard.
        digits: key of `DIGITS`; the same sums, but runtimes differ in which they multiply fast,
            and some saturate the products of unsigned bytes.
        dtype: of activations; None: the checkpoint's.
        latent_eps: epsilon of the latent norms; None: the configuration's.
        positions: longest sequence; None: the configuration's.
    """

    numerics: Numerics = Numerics.FAST
    opset: int = OPSET
    digits: str = "int8"
    dtype: torch.dtype | None = None
    latent_eps: float | None = None
    positions: int | None = None


def export(
    checkpoint: Path,
    out: Path,
    form: Form,
    *,
    example: Example | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write a model into a new or empty directory; returns the manifest.

    Raises:
        ExportError: a version of the standard that the graphs cannot be written in.
        FileExistsError: the directory holds something.
        ConfigError, CheckpointError: naming everything that is wrong with the checkpoint.
    """
    if problem := opset_problem(form.opset):
        raise ExportError(problem)
    with new_directory(out) as staging:
        with TensorFile(staging / _SCRATCH) as file:
            manifest = _write(checkpoint, staging, form, file, progress)
        if example is not None:
            manifest["example"] = {"ids": list(example.ids), "sha256": example.sha256}
        for name, source in _BESIDE.items():
            (staging / name).write_bytes(Path(__file__).with_name(source).read_bytes())
        manifest["files"] = {path.name: _sha256(path) for path in sorted(staging.iterdir())}
        text = json.dumps(manifest, indent=1, sort_keys=True) + "\n"
        (staging / MANIFEST_FILE).write_text(text, "utf-8")
    return manifest


def _write(
    checkpoint: Path, staging: Path, form: Form, file: TensorFile, progress: Progress | None
) -> dict[str, Any]:
    left = DIGITS[form.digits]
    recording = Recording(Graph("unused"), form.numerics)
    keeper = Keeper(file)
    backend = Exporter(recording, form.numerics, keeper)
    runtime = Runtime(make_plan(Exporter, 0, form.numerics), backend)
    model = load_model(
        checkpoint,
        runtime,
        dtype=form.dtype,
        latent_eps=form.latent_eps,
        positions=form.positions,
        mtp=False,
        progress=progress,
    )
    weights = dict(named_tensors(model.weights))
    numbers = {keeper.number(tensor): name for name, tensor in weights.items()}
    places = file.write(staging / WEIGHTS_FILE, numbers)
    cache = KVCache(model.config, runtime, tokens=PAGE_SIZE, sequences=1, dtype=model.dtype)
    for name in GRAPHS:
        graph = Graph(name, left=left)
        for path, tensor in weights.items():
            enter(graph, path, tensor, places[path], WEIGHTS_FILE)
        _Build(graph, model, recording, cache, decode=name == "decode").run()
        target = staging / f"{name}.onnx"
        target.write_bytes(graph.model(form.opset, check=False).SerializeToString())
        checker.check_model(str(target), full_check=True)
    return _manifest(form, model, cache)


def _caches(cache: KVCache) -> Iterator[tuple[str, Cache]]:
    for number, layer in enumerate(cache.layers):
        yield f"{number}.latent", layer.latent
        if layer.index_keys is not None:
            yield f"{number}.index_keys", layer.index_keys


@dataclass(frozen=True)
class _Build:
    """Making one graph.

    Attributes:
        graph: to be filled.
        model: run to fill it.
        recording: of the model's backend.
        cache: of the model.
        decode: whether each token is of a sequence of its own.
    """

    graph: Graph
    model: GLM5
    recording: Recording
    cache: KVCache
    decode: bool

    def run(self) -> None:
        """Declare inputs, run the model, declare outputs."""
        graph, tokens = self.graph, "B" if self.decode else "T"
        ids = graph.input("ids", I32, (tokens,))
        positions = graph.input("positions", I32, (tokens,))
        if self.decode:
            sequence = graph.positions(ids.size(0).squeeze(0)).to(I32)
        else:
            sequence = graph.input("sequence", I32, (tokens,))
        table = graph.input("page_table", I32, ("B", "P"))
        for name, pages in _caches(self.cache):
            rows = graph.input(f"past.{name}", TYPES[pages.dtype], ("slots", pages.width))
            _traced(pages).value = rows
        step = self._step(ids, positions, sequence, table)
        logits = self.model.logits(self.model.forward(step, self.cache))
        assert isinstance(logits, Traced)
        graph.output("logits", logits.value, (tokens, self.model.config.vocab_size))
        for name, pages in _caches(self.cache):
            graph.output(f"present.{name}", _traced(pages).value, ("slots", pages.width))

    def _step(self, ids: Value, positions: Value, sequence: Value, table: Value) -> Step:
        """The step as the model takes it; the sizes are examples."""
        wide = positions.to(I64)
        pages = table.gather(sequence).gather_elements((wide / PAGE_SIZE).unsqueeze(1), 1)
        slots = pages.squeeze(1).to(I64) * PAGE_SIZE + wide % PAGE_SIZE
        lengths = wide + 1
        self.recording.begin(self.graph, lengths.max(0))
        each = (ids, positions, slots.to(I32), sequence, lengths.to(I32))
        given, places, held, rows, seen = (Traced.of(value, (2,), torch.int32) for value in each)
        context = PagedContext(Traced.of(table, (1, 1), torch.int32), rows, seen, PAGE_SIZE)
        return Step(given, places, held, context, (2,))


def _traced(cache: Cache) -> Traced:
    tensor = cache.tensor
    assert isinstance(tensor, Traced)
    return tensor


def _manifest(form: Form, model: GLM5, cache: KVCache) -> dict[str, Any]:
    """What a program needs to know to run the graphs."""
    config = model.config
    return {
        "format": FORMAT,
        "package_version": package_version(),
        "contract_version": CONTRACT_VERSION,
        "numerics": form.numerics.value,
        "opset": form.opset,
        "ir_version": IR_VERSION,
        "digits": form.digits if form.numerics is Numerics.EXACT else None,
        "dtype": _short(model.dtype),
        "latent_eps": config.latent_norm_eps,
        "positions": config.max_position_embeddings,
        "vocab_size": config.vocab_size,
        "eos_token_id": list(config.eos_token_id),
        "page_size": PAGE_SIZE,
        "graphs": {name: f"{name}.onnx" for name in GRAPHS},
        "caches": [
            {"name": name, "width": pages.width, "dtype": _short(pages.dtype)}
            for name, pages in _caches(cache)
        ],
        "example": None,
    }


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
