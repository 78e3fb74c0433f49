"""Reading a pack: nothing is believed before every file is the one that the manifest lists."""

import hashlib
import json
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError

from glm5_hal.conformance.errors import PackageError
from glm5_hal.conformance.onnx_packs import layout
from glm5_hal.conformance.suite import Suite
from glm5_hal.kernels.onnx import opset_problem

_SHOWN = 5


def read(path: Path) -> layout.Pack:
    """Read and check a pack.

    Raises:
        PackageError: no pack, files that are missing, changed or foreign, a model of another
            version of the standard, or a pack of another suite.
    """
    manifest = path / layout.MANIFEST_FILE
    if not manifest.is_file():
        raise PackageError(f"{path} holds no {layout.MANIFEST_FILE}: no whole pack")
    try:
        facts: dict[str, Any] = json.loads(manifest.read_bytes())
        _check_format(facts)
        pack = layout.Pack(
            path=path,
            id=layout.pack_id(path),
            facts=facts,
            data_sets={name: _data_set(name, entry) for name, entry in facts["data_sets"].items()},
            cases={name: _case(name, entry) for name, entry in facts["cases"].items()},
        )
        _check_suite(facts)
        _check_files(path, facts["files"])
        _check_models(pack)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        said = f"{type(error).__name__}: {error}"
        raise PackageError(f"{manifest} is not as the suite writes it ({said})") from error
    return pack


def _check_format(facts: dict[str, Any]) -> None:
    if facts["format"] != layout.FORMAT:
        raise PackageError(
            f"the pack has format {facts['format']}, this suite reads {layout.FORMAT}"
        )


def _data_set(folder: str, entry: dict[str, Any]) -> layout.DataSet:
    outputs = (
        layout.Output(part["dtype"], tuple(part["shape"]), part["sha256"])
        for part in entry["outputs"]
    )
    return layout.DataSet(folder, entry["call"], tuple(outputs))


def _case(name: str, entry: dict[str, Any]) -> layout.PackedCase:
    texts = {key: entry[key] for key in ("requirement", "op", "relation", "judged")}
    return layout.PackedCase(id=name, data_sets=tuple(entry["data_sets"]), **texts)


def _check_suite(facts: dict[str, Any]) -> None:
    """Another version asks other calls, so its packs cannot be judged here."""
    here = Suite.here()
    made_by = f"{facts['suite_version']}, contract {facts['contract_version']}"
    if made_by != here.name:
        raise PackageError(
            f"the pack was made by suite {made_by}; this is {here.name}. Judge it with the suite "
            "that made it, or export it again"
        )


def _check_files(path: Path, listed: dict[str, str]) -> None:
    found = {p.relative_to(path).as_posix() for p in path.rglob("*") if not p.is_dir()}
    found -= {layout.MANIFEST_FILE}
    if missing := sorted(set(listed) - found):
        raise PackageError(f"the pack lacks {len(missing)} files: {_some(missing)}")
    if foreign := sorted(found - set(listed)):
        raise PackageError(
            f"the pack holds {len(foreign)} files that do not belong: {_some(foreign)}. Results go "
            "into a directory of their own"
        )
    changed = [
        name
        for name, digest in listed.items()
        if hashlib.sha256((path / name).read_bytes()).hexdigest() != digest
    ]
    if changed:
        raise PackageError(f"not the files that the manifest lists: {_some(changed)}")


def _check_models(pack: layout.Pack) -> None:
    wanted = pack.facts["opset"]
    if problem := opset_problem(wanted):
        raise PackageError(problem)
    for model in sorted(pack.path.glob(f"*/{layout.MODEL_FILE}")):
        try:
            imported = onnx.load(str(model)).opset_import
        except DecodeError as error:
            raise PackageError(f"{model} is no ONNX model: {error}") from error
        found = {entry.domain: entry.version for entry in imported}
        if found != {"": wanted}:
            said = ", ".join(
                f"{domain or 'ai.onnx'} {version}" for domain, version in found.items()
            )
            raise PackageError(f"{model} asks for {said}; the manifest says opset {wanted}")


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
