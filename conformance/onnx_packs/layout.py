"""What a pack holds, and where: shared by those who write and those who read."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FORMAT = 1
"""Version of the manifest and the layout."""
MANIFEST_FILE = "manifest.json"
MODEL_FILE = "model.onnx"
BESIDE = {"README.md": "pack_readme.md", "run.py": "run.py"}
"""Files for who runs the models, and where their text stands in this folder."""


def input_file(place: int) -> str:
    """Name of a data set's input."""
    return f"input_{place}.pb"


def output_file(place: int) -> str:
    """Name of a data set's output."""
    return f"output_{place}.pb"


def pack_id(folder: Path) -> str:
    """SHA-256 of a pack's manifest, and through it of everything."""
    return hashlib.sha256((folder / MANIFEST_FILE).read_bytes()).hexdigest()


@dataclass(frozen=True)
class Output:
    """An expected output.

    Attributes:
        dtype: as torch names it.
        shape: sizes.
        sha256: of dtype, shape and bytes, as in result packages.
    """

    dtype: str
    shape: tuple[int, ...]
    sha256: str

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {"dtype": self.dtype, "shape": list(self.shape), "sha256": self.sha256}


@dataclass(frozen=True)
class DataSet:
    """One call with its results.

    Attributes:
        folder: relative to the pack: ``linear-1f2e3d4c/test_data_set_0``.
        call: key of the call.
        outputs: expected.
    """

    folder: str
    call: str
    outputs: tuple[Output, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {"call": self.call, "outputs": [output.to_dict() for output in self.outputs]}


@dataclass(frozen=True)
class PackedCase:
    """A case and what it looks at.

    Attributes:
        id, requirement, op, relation: of the case.
        judged: ``bytes`` or ``bound``.
        data_sets: folders, in the order in which the check asks.
    """

    id: str
    requirement: str
    op: str
    relation: str
    judged: str
    data_sets: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON; the id is the key beside it."""
        return {
            "requirement": self.requirement,
            "op": self.op,
            "relation": self.relation,
            "judged": self.judged,
            "data_sets": list(self.data_sets),
        }


@dataclass(frozen=True)
class Pack:
    """A pack that was read and is whole.

    Attributes:
        path: of the directory.
        id: SHA-256 of the manifest, and through it of everything.
        facts: the manifest.
        data_sets: by folder.
        cases: by id.
    """

    path: Path
    id: str
    facts: dict[str, Any]
    data_sets: dict[str, DataSet]
    cases: dict[str, PackedCase]
