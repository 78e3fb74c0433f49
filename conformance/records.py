"""Results as JSON lines: the source of truth, one line on disk as soon as a case is finished."""

import dataclasses
import fcntl
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

from glm5_hal.conformance.case import Result, Status
from glm5_hal.conformance.compare import Difference
from glm5_hal.conformance.errors import AskedError, ConformanceError

_FIELDS = tuple(field.name for field in dataclasses.fields(Result))
_TEXTS = ("id", "requirement", "op", "aspect", "relation", "message", "change", "hint", "reproduce")
_DIFFERENCE = tuple(field.name for field in dataclasses.fields(Difference))


class RecordError(ConformanceError):
    """A line that is no result."""


def plain(result: Result) -> dict[str, Any]:
    """A result as plain data, for JSON."""
    data = {name: getattr(result, name) for name in _FIELDS}
    data["status"] = result.status.value
    data["ulps"] = {str(edge): count for edge, count in result.ulps.items()}
    return data


def line(result: Result) -> str:
    """A result as one line of results.jsonl, without the line's end."""
    return json.dumps(plain(result), separators=(",", ":"), allow_nan=False)


def lines(results: Iterable[Result]) -> bytes:
    """A whole results.jsonl."""
    return "".join(line(result) + "\n" for result in results).encode()


def parse(text: str) -> Result:
    """The result of one line.

    Raises:
        RecordError: saying what is wrong with it.
    """
    try:
        data = json.loads(text, parse_constant=_no_constant)
    except ValueError as error:
        raise RecordError(f"no JSON: {error}") from error
    if not isinstance(data, dict) or set(data) != set(_FIELDS):
        raise RecordError(f"not the fields of a result ({', '.join(_FIELDS)})")
    for name in _TEXTS:
        _require(isinstance(data[name], str), name, "a string")
    _require(data["status"] in {status.value for status in Status}, "status", "a status")
    _require(_is_number(data["seconds"]) and data["seconds"] >= 0, "seconds", "a time")
    _require(data["worst"] is None or _is_number(data["worst"]), "worst", "a number or null")
    _require(_is_mapping(data["digests"], str), "digests", "names and digests")
    _require(_is_mapping(data["ulps"], int), "ulps", "edges and counts")
    _require(
        data["difference"] is None or _is_difference(data["difference"]),
        "difference",
        "a difference or null",
    )
    try:
        ulps = {int(edge): count for edge, count in data["ulps"].items()}
    except ValueError as error:
        raise RecordError(f"ulps: {error}") from error
    return Result(**{**data, "status": Status(data["status"]), "ulps": ulps})


def parse_all(content: bytes) -> dict[str, Result]:
    """The results of a results.jsonl by case id, in the order of the file.

    Raises:
        RecordError: naming the line.
    """
    found: dict[str, Result] = {}
    if content and not content.endswith(b"\n"):
        raise RecordError("results.jsonl ends in the middle of a line")
    for number, text in enumerate(content.split(b"\n")[:-1], 1):
        try:
            result = parse(text.decode())
        except (RecordError, UnicodeDecodeError) as error:
            raise RecordError(f"results.jsonl, line {number}: {error}") from error
        if result.id in found:
            raise RecordError(f"results.jsonl, line {number}: second result of {result.id}")
        found[result.id] = result
    return found


def difference_of(result: Result) -> Difference | None:
    """The first difference of a result."""
    if result.difference is None:
        return None
    data: dict[str, Any] = dict(result.difference)
    return Difference(**{**data, "index": tuple(data["index"])})


def _require(good: bool, name: str, wanted: str) -> None:
    if not good:
        raise RecordError(f"{name} is not {wanted}")


def _is_difference(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and set(value) == set(_DIFFERENCE)
        and isinstance(value["index"], list)
        and all(type(place) is int for place in value["index"])
        and all(type(value[name]) is int for name in ("output", "differing", "total"))
        and all(isinstance(value[name], str) for name in ("expected", "found", "note"))
        and (value["ulp"] is None or type(value["ulp"]) is int)
    )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_mapping(value: object, kind: type) -> bool:
    return isinstance(value, Mapping) and all(type(part) is kind for part in value.values())


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


class Journal:
    """results.jsonl while a run goes on; one process may hold it.

    Attributes:
        finished: results that stood in the file when it was opened.

    Raises:
        AskedError: another process holds it.
        RecordError: a whole line is no result.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            self._lock(path)
            self.finished = self._recover(path)
        except BaseException:
            os.close(self._file)
            raise

    def _lock(self, path: Path) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise AskedError(f"another run is writing to {path.parent}") from error

    def _recover(self, path: Path) -> dict[str, Result]:
        content = path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]  # a line without its end was torn by a kill
        finished = parse_all(whole)
        os.ftruncate(self._file, len(whole))
        os.lseek(self._file, 0, os.SEEK_END)
        return finished

    def append(self, result: Result) -> None:
        """Put a result on disk."""
        content = (line(result) + "\n").encode()
        while content:
            content = content[os.write(self._file, content) :]
        os.fsync(self._file)

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._file)
