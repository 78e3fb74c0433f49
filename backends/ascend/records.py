"""What fused.yaml says: which function serves which op, within which limits, promising what."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, fields
from importlib.resources import files
from typing import Any

import torch
import yaml

from glm5_hal.errors import BackendDefinitionError

FILE = "fused.yaml"
Facts = dict[str, object]
"""What limits look at, by the names that fused.yaml has for it."""


def name_of(dtype: torch.dtype) -> str:
    """As the limits name a dtype."""
    return str(dtype).removeprefix("torch.")


@dataclass(frozen=True)
class Limit:
    """One condition on a call; exactly one of the last four is given.

    Attributes:
        of: the fact of the call that is looked at.
        why: the reason where it is not plain that the function takes nothing else.
        one_of: the values it may have.
        at_least: the smallest value.
        at_most: the largest value.
        multiple_of: what it must be a multiple of.
    """

    of: str
    why: str = ""
    one_of: tuple[object, ...] = ()
    at_least: int | None = None
    at_most: int | None = None
    multiple_of: int | None = None

    def __post_init__(self) -> None:
        given = (self.at_least, self.at_most, self.multiple_of)
        if sum(part is not None for part in given) + bool(self.one_of) != 1:
            raise BackendDefinitionError(f"{FILE}: the limit of {self.of} is not one condition")

    @property
    def expected(self) -> str:
        """The condition in words."""
        if self.one_of:
            return " or ".join(str(value) for value in self.one_of)
        if self.at_least is not None:
            return f"at least {self.at_least}"
        if self.at_most is not None:
            return f"at most {self.at_most}"
        return f"a multiple of {self.multiple_of}"

    def holds(self, value: Any) -> bool:
        """Whether a value is within it."""
        if self.one_of:
            return value in self.one_of
        if self.at_least is not None:
            return bool(value >= self.at_least)
        if self.at_most is not None:
            return bool(value <= self.at_most)
        return bool(value % (self.multiple_of or 1) == 0)


@dataclass(frozen=True)
class Promise:
    """What is known of one requirement; exactly one is given.

    Attributes:
        kept: what keeps it, with the source.
        unknown: why that is not known.
    """

    kept: str = ""
    unknown: str = ""

    def __post_init__(self) -> None:
        if bool(self.kept) == bool(self.unknown):
            raise BackendDefinitionError(f"{FILE}: a promise is either kept or unknown: {self}")


@dataclass(frozen=True)
class Record:
    """A fused function and the op that it serves.

    Attributes:
        op: of the contract.
        function: its name in ``torch.ops.npu``.
        parameters: those that are given to it.
        limits: what a call must fulfil.
        promises: by requirement.
    """

    op: str
    function: str
    parameters: tuple[str, ...]
    limits: tuple[Limit, ...]
    promises: Mapping[str, Promise]

    def obstacle(self, facts: Mapping[str, object]) -> str | None:
        """The first limit that a call does not keep to; None if it keeps to all.

        Raises:
            KeyError: a limit is of a fact that the caller does not state.
        """
        for limit in self.limits:
            value = facts[limit.of]
            if not limit.holds(value):
                why = f" ({limit.why})" if limit.why else ""
                return f"{limit.of} is {value}, expected {limit.expected}{why}"
        return None


@dataclass(frozen=True)
class Table:
    """The whole file.

    Attributes:
        generations: name of a generation of chips by the beginning of the device's name.
        records: by op.
    """

    generations: Mapping[str, str]
    records: Mapping[str, Record]

    def generation(self, device_name: str) -> str:
        """The generation of a device; its own name where it is of none that is known."""
        known = (gen for start, gen in self.generations.items() if device_name.startswith(start))
        return next(known, device_name)


@functools.cache
def table() -> Table:
    """fused.yaml, read once."""
    content = yaml.safe_load(files(__package__).joinpath(FILE).read_text(encoding="utf-8"))
    return parse(content)


def parse(content: Mapping[str, Any]) -> Table:
    """Make the table of plain data.

    Raises:
        BackendDefinitionError: a key is unknown or missing, or an op has two records.
    """
    _only(content, {"generations", "fused"}, "the file")
    records = [_record(entry) for entry in content["fused"]]
    by_op = {record.op: record for record in records}
    if len(by_op) != len(records):
        raise BackendDefinitionError(f"{FILE}: an op has two records")
    return Table(dict(content["generations"]), by_op)


def _record(entry: Mapping[str, Any]) -> Record:
    _only(entry, {part.name for part in fields(Record)}, f"the record of {entry.get('op')}")
    return Record(
        op=entry["op"],
        function=entry["function"],
        parameters=tuple(entry["parameters"]),
        limits=tuple(_limit(limit) for limit in entry["limits"]),
        promises={key: _promise(key, value) for key, value in entry["promises"].items()},
    )


def _limit(entry: Mapping[str, Any]) -> Limit:
    _only(entry, {part.name for part in fields(Limit)}, "a limit", {"of"})
    given = dict(entry)
    given["one_of"] = tuple(entry.get("one_of", ()))
    return Limit(**given)


def _promise(requirement: str, entry: Mapping[str, Any]) -> Promise:
    _only(entry, {part.name for part in fields(Promise)}, f"the promise {requirement}", set())
    return Promise(**entry)


def _only(
    entry: Mapping[str, Any], known: set[str], what: str, needed: set[str] | None = None
) -> None:
    if unknown := set(entry) - known:
        raise BackendDefinitionError(f"{FILE}: {what} has unknown keys {sorted(unknown)}")
    if missing := (known if needed is None else needed) - set(entry):
        raise BackendDefinitionError(f"{FILE}: {what} lacks {sorted(missing)}")
