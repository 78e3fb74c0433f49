"""Must-pass lists: which cases a run must have executed to mean anything, frozen as text."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from glm5_hal.conformance.case import Case
from glm5_hal.conformance.errors import ConformanceError

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class MustPass:
    """A frozen list.

    Attributes:
        name: ``PROFILE-full`` or ``PROFILE-quick``.
        ids: case ids, sorted.
    """

    name: str
    ids: tuple[str, ...]

    @classmethod
    def of(cls, name: str, ids: Iterable[str]) -> "MustPass":
        """A list of some cases."""
        return cls(name, tuple(sorted(ids)))

    @classmethod
    def parse(cls, name: str, content: bytes) -> "MustPass":
        """Read a list.

        Raises:
            ConformanceError: not sorted, an id twice, or an empty line.
        """
        text = content.decode()
        ids = tuple(text.split("\n")[:-1])
        if text and (not text.endswith("\n") or list(ids) != sorted(set(ids)) or "" in ids):
            raise ConformanceError(f"must-pass list {name} is not a sorted list of distinct ids")
        return cls(name, ids)

    @classmethod
    def load(cls, name: str, folder: Path = FOLDER) -> "MustPass":
        """A list of this version of the suite; empty where none has been frozen yet."""
        path = folder / f"{name}.txt"
        return cls.parse(name, path.read_bytes()) if path.exists() else cls(name, ())

    def freeze(self, folder: Path) -> Path:
        """Write the list."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.name}.txt"
        path.write_bytes(self.content)
        return path

    @property
    def content(self) -> bytes:
        """The file."""
        return "".join(f"{name}\n" for name in self.ids).encode()

    @property
    def sha256(self) -> str:
        """Digest of the file."""
        return hashlib.sha256(self.content).hexdigest()

    def differences(self, ids: Iterable[str]) -> list[str]:
        """How other ids differ from the list, in sentences; empty when they are the same."""
        found = set(ids)
        if not self.ids and found:
            return [f"there is no must-pass list {self.name}; `conformance freeze` writes it"]
        missing = [name for name in self.ids if name not in found]
        extra = sorted(found - set(self.ids))
        said = []
        if missing:
            said.append(
                f"{len(missing)} cases of the must-pass list {self.name} are missing: "
                + _some(missing)
            )
        if extra:
            said.append(
                f"{len(extra)} cases are not in the must-pass list {self.name}: " + _some(extra)
            )
        return said


def frozen(catalogue: Mapping[str, Case]) -> list[MustPass]:
    """The lists of a catalogue: for each of its profiles all cases, and the quick ones."""
    made = []
    for profile in sorted({case.profile.value for case in catalogue.values()}):
        cases = [case for case in catalogue.values() if case.profile.value == profile]
        made.append(MustPass.of(f"{profile}-full", (case.id for case in cases)))
        made.append(MustPass.of(f"{profile}-quick", (case.id for case in cases if case.quick)))
    return made


def _some(names: list[str], most: int = 5) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest
