"""Waivers: what a backend is known to fail, each with a reason and a date.

They are the statement of whoever wrote the backend: no waiver makes a run show more.

`waivers.yaml` lies beside the module of the backend's class::

    - case: "LINEAR-3/*/bf16"
      reason: the vendor's matrix multiplication splits K by the number of rows
      date: 2026-02-11
      expires: 2026-08-01                       # optional: from the next day on it is a failure
      issue: https://example.com/tracker/17     # optional
"""

import datetime
import fnmatch
import inspect
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from glm5_hal import Backend
from glm5_hal.conformance.errors import WaiverError

FILE = "waivers.yaml"
_REQUIRED = ("case", "reason", "date")
_KEYS = (*_REQUIRED, "expires", "issue")


@dataclass(frozen=True)
class Waiver:
    """One expected failure.

    Attributes:
        case: glob over case ids; ``*`` matches slashes too.
        reason: why it fails.
        date: when that was found.
        issue: where it is tracked; empty if nowhere.
        expires: the last day on which it holds; None: until someone removes it.
    """

    case: str
    reason: str
    date: datetime.date
    issue: str = ""
    expires: datetime.date | None = None

    def matches(self, case: str) -> bool:
        """Whether it speaks of a case."""
        return case == self.case or fnmatch.fnmatchcase(case, self.case)

    def to_dict(self) -> dict[str, str]:
        """Plain data, for JSON."""
        plain = {"case": self.case, "reason": self.reason, "date": self.date.isoformat()}
        if self.expires:
            plain["expires"] = self.expires.isoformat()
        return {**plain, "issue": self.issue} if self.issue else plain

    def __str__(self) -> str:
        until = f" until {self.expires.isoformat()}" if self.expires else ""
        issue = f", {self.issue}" if self.issue else ""
        return f"{self.reason} (waived {self.date.isoformat()}{until}{issue})"


@dataclass(frozen=True)
class Waivers:
    """The waivers of a backend.

    Attributes:
        entries: in the order of the file; the first that matches a case counts.
        content: the file, byte for byte.
    """

    entries: tuple[Waiver, ...] = ()
    content: bytes = b"[]\n"

    @classmethod
    def parse(cls, content: bytes, source: str = FILE) -> "Waivers":
        """Read a waivers.yaml.

        Raises:
            WaiverError: naming the entry and what is wrong with it.
        """
        try:
            data = yaml.safe_load(content)
        except yaml.YAMLError as error:
            raise WaiverError(f"{source}: no YAML: {error}") from error
        if data is None:
            data = []
        if not isinstance(data, list):
            raise WaiverError(f"{source}: expected a list of waivers, found {type(data).__name__}")
        entries = tuple(_waiver(entry, f"{source}, entry {n}") for n, entry in enumerate(data, 1))
        globs = [entry.case for entry in entries]
        double = sorted({glob for glob in globs if globs.count(glob) > 1})
        if double:
            raise WaiverError(f"{source}: waived twice: {', '.join(double)}")
        return cls(entries, content)

    @classmethod
    def beside(cls, backend: type[Backend]) -> "Waivers":
        """Those of a backend; none where there is no file."""
        path = Path(inspect.getfile(backend)).parent / FILE
        return cls.parse(path.read_bytes(), str(path)) if path.exists() else cls()

    def of(self, case: str, day: datetime.date) -> Waiver | None:
        """The waiver of a case that holds on the day on which a run began."""
        return next((e for e in self._of(case) if e.expires is None or day <= e.expires), None)

    def expired(self, case: str, day: datetime.date) -> Waiver | None:
        """The waiver that held before, where none holds on a day."""
        return None if self.of(case, day) else next(self._of(case), None)

    def _of(self, case: str) -> Iterator[Waiver]:
        return (entry for entry in self.entries if entry.matches(case))

    def idle(self, cases: Iterable[str]) -> tuple[str, ...]:
        """Globs that match none of the cases."""
        known = list(cases)
        return tuple(e.case for e in self.entries if not any(e.matches(case) for case in known))


def _waiver(entry: Any, place: str) -> Waiver:
    if not isinstance(entry, dict):
        raise WaiverError(f"{place}: expected {', '.join(_REQUIRED)}, found {type(entry).__name__}")
    if unknown := sorted(str(key) for key in entry if key not in _KEYS):
        raise WaiverError(f"{place}: unknown {', '.join(unknown)}; known: {', '.join(_KEYS)}")
    if missing := [key for key in _REQUIRED if not entry.get(key)]:
        raise WaiverError(f"{place}: no {', '.join(missing)}")
    for key in ("case", "reason", "issue"):
        if not isinstance(entry.get(key, ""), str):
            raise WaiverError(f"{place}: {key} is {type(entry[key]).__name__}, expected text")
    if not entry["reason"].strip():
        raise WaiverError(f"{place}: no reason")
    found, expires = _date(entry, "date", place), None
    if "expires" in entry:
        expires = _date(entry, "expires", place)
        if expires < found:
            raise WaiverError(f"{place}: expires {expires}, before it was found on {found}")
    return Waiver(entry["case"], entry["reason"], found, entry.get("issue", ""), expires)


def _date(entry: Mapping[str, object], key: str, place: str) -> datetime.date:
    value = entry[key]
    if isinstance(value, datetime.date) and not isinstance(value, datetime.datetime):
        return value
    try:
        return datetime.date.fromisoformat(value)  # type: ignore[arg-type] # TypeError is caught
    except (TypeError, ValueError) as error:
        raise WaiverError(f"{place}: {key} {value!r} is not of the form 2026-02-11") from error
