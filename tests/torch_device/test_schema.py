"""backend.schema.json and the reader of backend.yaml speak of the same keys, at every depth."""

import json
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from importlib.resources import files
from typing import Any, get_args, get_type_hints

import jsonschema

from glm5_hal.backends.torch_triton.descriptor import Descriptor

SCHEMA: dict[str, Any] = json.loads(
    files("glm5_hal.backends.torch_triton").joinpath("backend.schema.json").read_text("utf-8")
)


def pairs(cls: type, schema: dict[str, Any], where: str) -> Iterator[tuple[str, type, Any]]:
    """Every record class with the part of the schema that describes it."""
    yield where, cls, schema
    for name, kind in get_type_hints(cls).items():
        inside = [part for part in (kind, *get_args(kind)) if is_dataclass(part)]
        if inside:
            entry = schema["properties"][name]
            assert isinstance(inside[0], type)
            yield from pairs(inside[0], entry.get("items", entry), f"{where}.{name}")


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_the_schema_has_the_readers_keys_and_no_others() -> None:
    found = list(pairs(Descriptor, SCHEMA, "backend.yaml"))
    assert len(found) > 5
    for where, cls, schema in found:
        entries = fields(cls)
        names = {entry.name for entry in entries}
        needed = {
            entry.name
            for entry in entries
            if entry.default is MISSING and entry.default_factory is MISSING
        }
        assert set(schema["properties"]) == names, where
        assert set(schema.get("required", ())) == needed, where
        assert schema["additionalProperties"] is False, where
        assert all(entry["description"] for entry in schema["properties"].values()), where
