"""Run an exported model with onnxruntime and numpy, nothing else.

    python run_example.py                      the example of manifest.json, against its digest
    python run_example.py --ids FILE.json      a list of token ids, or a list of such lists
    python run_example.py --generate 8         eight tokens more, always the most likely one

Exit code 1: the digest is not the one in manifest.json.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

Logits = npt.NDArray[np.float32]
Ids = Sequence[int] | npt.NDArray[np.int64]
ELEMENT: dict[str, tuple[int, Any]] = {"bfloat16": (16, np.uint16), "float32": (1, np.float32)}
"""ONNX number of an element type, and a numpy type of its size."""


class Model:
    """The two graphs and the caches of some sequences, whose pages follow each other."""

    def __init__(self, directory: Path, provider: str, sequences: int, length: int) -> None:
        self.manifest = json.loads((directory / "manifest.json").read_text())
        exact = self.manifest["numerics"] == "exact"
        options = ort.SessionOptions()
        options.use_deterministic_compute = True
        # planning which buffers may share memory takes time that grows with the square of the graph
        options.enable_mem_reuse = False
        if exact:  # as written: a rewritten graph may round elsewhere
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        self.sessions = {
            name: ort.InferenceSession(str(directory / file), options, providers=[provider])
            for name, file in self.manifest["graphs"].items()
        }
        size = self.manifest["page_size"]
        pages = -(-length // size)
        self.table = np.arange(sequences * pages, dtype=np.int32).reshape(sequences, pages)
        self.caches = {}
        for cache in self.manifest["caches"]:
            number, kind = ELEMENT[cache["dtype"]]
            rows = np.zeros((sequences * pages * size, cache["width"]), kind)
            self.caches[cache["name"]] = ort.OrtValue.ortvalue_from_numpy_with_onnx_type(
                rows, number
            )

    def run(self, graph: str, **tokens: Ids) -> Logits:
        """Logits of some tokens, as float32 [tokens, vocabulary]; the caches then hold them."""
        arrays = {**tokens, "page_table": self.table}
        feeds = {
            n: ort.OrtValue.ortvalue_from_numpy(np.asarray(a, np.int32)) for n, a in arrays.items()
        }
        feeds |= {f"past.{name}": rows for name, rows in self.caches.items()}
        names = ["logits", *(f"present.{name}" for name in self.caches)]
        logits, *rows = self.sessions[graph].run_with_ort_values(names, feeds)
        self.caches = dict(zip(self.caches, rows, strict=True))
        found: Logits = logits.numpy()
        return found

    def prefill(self, pieces: Sequence[Sequence[int]], start: int) -> Logits:
        """Logits of tokens of every sequence, the first of which stands at `start`."""
        return self.run(
            "prefill",
            ids=[i for piece in pieces for i in piece],
            positions=[start + place for piece in pieces for place in range(len(piece))],
            sequence=[row for row, piece in enumerate(pieces) for _ in piece],
        )

    def decode(self, ids: Ids, positions: Ids) -> Logits:
        """Logits of one token of every sequence."""
        return self.run("decode", ids=ids, positions=positions)


def stacked(logits: Logits, lengths: Sequence[int]) -> Logits:
    """Logits by sequence, [sequences, longest, vocabulary], NaN behind a sequence's end."""
    out = np.full((len(lengths), max(lengths), logits.shape[1]), np.nan, np.float32)
    for row, part in enumerate(np.split(logits, np.cumsum(lengths)[:-1])):
        out[row, : len(part)] = part
    return out


def digest(logits: Logits) -> str:
    """SHA-256 of dtype, shape and bytes."""
    form = f"torch.float32{list(logits.shape)}".encode()
    return hashlib.sha256(form + logits.tobytes()).hexdigest()


def main() -> None:
    directory = Path(__file__).parent
    parser = argparse.ArgumentParser(description="Run an exported model.")
    parser.add_argument("--ids", type=Path, metavar="FILE.json")
    parser.add_argument("--generate", type=int, default=0, metavar="N")
    parser.add_argument("--provider", default="CPUExecutionProvider")
    asked = parser.parse_args()
    example = json.loads((directory / "manifest.json").read_text())["example"]
    if asked.provider not in ort.get_available_providers():
        offered = ", ".join(ort.get_available_providers())
        sys.exit(f"the installed onnxruntime has no {asked.provider}; it has {offered}")
    if asked.ids is None and example is None:
        sys.exit("manifest.json has no example: give token ids with --ids FILE.json")
    ids = json.loads(asked.ids.read_text()) if asked.ids else example["ids"]
    sequences = ids if isinstance(ids[0], list) else [ids]
    lengths = [len(sequence) for sequence in sequences]

    model = Model(directory, asked.provider, len(sequences), max(lengths) + asked.generate)
    logits = stacked(model.prefill(sequences, 0), lengths)
    found = digest(logits)
    print(f"logits {list(logits.shape)}, sha256 {found}")
    if asked.generate:
        last = np.stack([logits[row, length - 1] for row, length in enumerate(lengths)])
        made = []
        for step in range(asked.generate):
            made.append(last.argmax(1))
            last = model.decode(made[-1], [length + step for length in lengths])
        print(json.dumps(np.stack(made, 1).tolist()))
    if asked.ids is None:
        good = found == example["sha256"]
        print("as manifest.json says" if good else f"manifest.json says {example['sha256']}")
        sys.exit(not good)


if __name__ == "__main__":
    main()
