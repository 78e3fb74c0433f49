"""The folder of evidence: reading all of it, and putting a file into it."""

import lzma
import re
from collections.abc import Iterator
from pathlib import Path

from glm5_hal.conformance.errors import ConformanceError, PackageError
from glm5_hal.conformance.matrix.evidence import Evidence
from glm5_hal.conformance.matrix.runs import of_package
from glm5_hal.conformance.matrix.static import of_document
from glm5_hal.conformance.package import decompressed, pack, read
from glm5_hal.conformance.sources import Source

FOLDER = Path(__file__).parent.parent / "evidence"
PACKAGE, DOCUMENT = ".tar.xz", ".json.xz"
_LARGEST_DOCUMENT = 64 * 2**20


def read_all(folder: Path, source: Source) -> list[Evidence]:
    """Every file of a folder, verified.

    Raises:
        PackageError: naming the file that was altered or does not belong.
    """
    if not folder.is_dir():
        raise PackageError(f"no folder of evidence: {folder}")
    found: list[Evidence] = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        try:
            found += _evidence(path, name, source)
        except ConformanceError as error:
            raise PackageError(f"evidence {name}: {error}") from error
    return found


def _evidence(path: Path, name: str, source: Source) -> list[Evidence]:
    if name.endswith(PACKAGE):
        return [of_package(read(path), name, source)]
    if name.endswith(DOCUMENT):
        return of_document(decompressed(path.read_bytes(), _LARGEST_DOCUMENT), name)
    raise PackageError(f"it is neither a result package (*{PACKAGE}) nor a document (*{DOCUMENT})")


def store(path: Path, folder: Path, source: Source) -> Path:
    """Put a result package or a static document into the folder, in place of an older one.

    Args:
        path: directory or tar of a package, or a JSON file.
        folder: of evidence.
        source: the cases of today.

    Returns:
        Where it lies.

    Raises:
        PackageError: it is no evidence, and why.
    """
    if not path.exists():
        raise PackageError(f"{path} does not exist")
    try:
        content, name = _packed(path, source)
    except ConformanceError as error:
        raise PackageError(f"{path}: {error}") from error
    target = folder / name
    target.parent.mkdir(parents=True, exist_ok=True)
    new = target.with_name(f".{target.name}")
    new.write_bytes(lzma.compress(content, preset=9 | lzma.PRESET_EXTREME))
    new.replace(target)
    return target


def _packed(path: Path, source: Source) -> tuple[bytes, str]:
    """What is to be compressed, and the name of the file."""
    if path.is_file() and path.name.endswith((".json", DOCUMENT)):
        content = decompressed(path.read_bytes(), _LARGEST_DOCUMENT)
        found = of_document(content, path.name)
        if not found:
            raise PackageError("it has no finding on a target that the compiler takes")
        if found[0].outdated:
            raise PackageError(f"it is outdated: {found[0].remarks[0]}")
        first = found[0]
        parts = (first.kind.value, *dict.fromkeys(evidence.scope for evidence in found))
        return content, f"{first.backend or 'portable'}/{_slug(parts)}{DOCUMENT}"
    package = read(path)
    evidence = of_package(package, path.name, source)
    if evidence.outdated:
        raise PackageError("it is outdated: run it again with this suite")
    parts = (*_kind_parts(evidence), evidence.profile, evidence.scope)
    return pack(package.files), f"{evidence.backend}/{_slug(parts)}{PACKAGE}"


def _kind_parts(evidence: Evidence) -> Iterator[str]:
    """One file for a kind; on hardware one for each device."""
    yield evidence.kind.short
    if evidence.kind.name == "HARDWARE":
        yield evidence.device


def _slug(parts: tuple[str, ...]) -> str:
    return re.sub(r"[^a-z0-9_]+", "-", " ".join(parts).lower()).strip("-")
