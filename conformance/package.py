"""The result package: a directory and a tar that others can check without the hardware.

What it protects against: accidents, forgotten edits, and edits of single files. Every file's
SHA-256 stands in the manifest, and the SHA-256 of the manifest is the package's id. Who recomputes
all of them makes a new package with another id; so a vendor publishes or signs the id, and who
doubts a result runs the cases again and compares the output digests (`glm5-hal conformance
compare`).
"""

import hashlib
import io
import json
import lzma
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glm5_hal.conformance import records, static_evidence
from glm5_hal.conformance.case import Result
from glm5_hal.conformance.errors import PackageError
from glm5_hal.conformance.junit import junit
from glm5_hal.conformance.manifest import encode, manifest
from glm5_hal.conformance.report import render
from glm5_hal.conformance.runner import MANIFEST_FILE, RESULTS_FILE, RUN_FILE, Outcome
from glm5_hal.conformance.static_evidence import StaticEvidence

WAIVERS_FILE = "waivers.yaml"
MUST_PASS_FILE = "must-pass.txt"
JUNIT_FILE = "junit.xml"
REPORT_FILE = "report.html"
STATIC_FILE = "static.json"
"""An audit of the backend's kernels: not in every package."""
FILES = (
    RESULTS_FILE,
    RUN_FILE,
    WAIVERS_FILE,
    MUST_PASS_FILE,
    JUNIT_FILE,
    REPORT_FILE,
)
"""Every file of every package but the manifest, which lists them."""

_FOLDER = "glm5-hal-conformance"
_LARGEST_FILE = 256 * 2**20
_LARGEST_TAR = 512 * 2**20
_XZ = b"\xfd7zXZ\0"


@dataclass(frozen=True)
class Package:
    """A package in memory.

    Attributes:
        files: content by name, the manifest included.
    """

    files: dict[str, bytes]

    @property
    def id(self) -> str:
        """SHA-256 of the manifest, and through it of everything."""
        return hashlib.sha256(self.files[MANIFEST_FILE]).hexdigest()

    @property
    def manifest(self) -> dict[str, Any]:
        """The manifest.

        Raises:
            PackageError: it is no JSON object.
        """
        try:
            content = json.loads(self.files[MANIFEST_FILE])
        except ValueError as error:
            raise PackageError(f"{MANIFEST_FILE} is no JSON: {error}") from error
        if not isinstance(content, dict):
            raise PackageError(f"{MANIFEST_FILE} is no object")
        return content

    @property
    def results(self) -> tuple[Result, ...]:
        """The results, in the order of the file.

        Raises:
            PackageError: there is no results.jsonl.
            RecordError: a line is no result.
        """
        if RESULTS_FILE not in self.files:
            raise PackageError(f"{RESULTS_FILE} is missing")
        return tuple(records.parse_all(self.files[RESULTS_FILE]).values())

    @property
    def static(self) -> StaticEvidence | None:
        """The audit that is attached.

        Raises:
            PackageError: it is not as an audit writes it.
        """
        content = self.files.get(STATIC_FILE)
        return None if content is None else static_evidence.parse(content, STATIC_FILE)


def seal(outcome: Outcome, out: Path, static: bytes | None = None) -> Package:
    """Complete the directory of a finished run, and write the tar beside it.

    Args:
        outcome: the run.
        out: its directory.
        static: an audit's document, to be attached.

    Raises:
        PackageError: the document is none.
    """
    results = outcome.results
    files = {
        RESULTS_FILE: records.lines(results),
        RUN_FILE: (out / RUN_FILE).read_bytes(),
        WAIVERS_FILE: outcome.job.waivers.content,
        MUST_PASS_FILE: outcome.job.must_pass.content,
    }
    if static is not None:
        files[STATIC_FILE] = static
    audited = Package(files).static
    files[JUNIT_FILE] = junit(results, _title(manifest(outcome, {})))
    files[REPORT_FILE] = render(manifest(outcome, _digests(files)), results, audited).encode()
    files[MANIFEST_FILE] = encode(manifest(outcome, _digests(files)))
    _write(out, files)
    tar = tar_of(out)
    new = tar.with_name(f".{tar.name}")
    new.write_bytes(pack(files))
    new.replace(tar)
    return Package(files)


def render_report(package: Package) -> str:
    """The HTML report of a package, made again.

    Raises:
        PackageError, RecordError: the package cannot be read.
    """
    content = package.manifest
    listed = content.get("files")
    if isinstance(listed, dict):  # a report does not name its own hash
        content["files"] = {name: value for name, value in listed.items() if name != REPORT_FILE}
    return render(content, package.results, package.static)


def render_junit(package: Package) -> bytes:
    """The JUnit file of a package, made again; raises as `render_report`."""
    return junit(package.results, _title(package.manifest))


def _title(facts: Mapping[str, Any]) -> str:
    return f"glm5-hal conformance {facts['backend']} {facts['profile']}"


def tar_of(out: Path) -> Path:
    """Where the tar of a directory stands."""
    return out.with_name(f"{out.name}.tar")


def _digests(files: dict[str, bytes]) -> dict[str, str]:
    return {
        name: hashlib.sha256(content).hexdigest()
        for name, content in files.items()
        if name != MANIFEST_FILE
    }


def _write(out: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        new = out / f".{name}"
        new.write_bytes(content)
        new.replace(out / name)


def pack(files: dict[str, bytes]) -> bytes:
    """The tar of some files: the same bytes for the same files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in sorted(files.items()):
            entry = tarfile.TarInfo(f"{_FOLDER}/{name}")
            entry.size, entry.mode = len(content), 0o644
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def read(path: Path) -> Package:
    """Read a directory, or a tar that may be compressed by xz; nothing is written anywhere.

    Raises:
        PackageError: not a package, truncated, or with files that do not belong.
    """
    if not path.exists():
        raise PackageError(f"{path} does not exist")
    files = _read_directory(path) if path.is_dir() else _read_tar(path)
    if MANIFEST_FILE not in files:
        raise PackageError(f"{path} holds no {MANIFEST_FILE}: no finished run")
    return Package(files)


def decompressed(content: bytes, most: int) -> bytes:
    """What an xz file holds; anything else as it is.

    Raises:
        PackageError: it is damaged, or holds more than `most` bytes.
    """
    if not content.startswith(_XZ):
        return content
    decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ)
    try:
        held = decoder.decompress(content, most + 1)
    except lzma.LZMAError as error:
        raise PackageError(f"no xz file, or a damaged one: {error}") from error
    if len(held) > most:
        raise PackageError(f"the xz file holds more than {most} bytes")
    if not decoder.eof or decoder.unused_data:
        raise PackageError("the xz file is truncated, or something follows it")
    return held


def _read_directory(path: Path) -> dict[str, bytes]:
    files = {}
    for entry in sorted(path.iterdir()):
        _check_name(entry.name)
        if entry.is_symlink() or not entry.is_file():
            raise PackageError(f"{entry.name} is no plain file")
        _check_size(entry.name, entry.stat().st_size)
        files[entry.name] = entry.read_bytes()
    return files


def _read_tar(path: Path) -> dict[str, bytes]:
    size = path.stat().st_size
    if size > _LARGEST_TAR:
        raise PackageError(f"the tar has {size} bytes, more than {_LARGEST_TAR}")
    content = decompressed(path.read_bytes(), _LARGEST_TAR)
    files: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as archive:
            for entry in archive:
                folder, _, name = entry.name.partition("/")
                if folder != _FOLDER or not entry.isreg() or name in files:
                    raise PackageError(f"the tar holds {entry.name!r}, which does not belong")
                _check_name(name)
                _check_size(name, entry.size)
                stream = archive.extractfile(entry)
                assert stream is not None
                files[name] = stream.read()
                if len(files[name]) != entry.size:
                    raise PackageError(f"the tar is truncated in {name}")
    except tarfile.TarError as error:
        raise PackageError(f"no tar, or a truncated one: {error}") from error
    if pack(files) != content:
        raise PackageError(
            "the tar is truncated, or not as the suite packed it; if its files matter, unpack it "
            "and verify the directory"
        )
    return files


def _check_name(name: str) -> None:
    if name not in (*FILES, MANIFEST_FILE, STATIC_FILE):
        raise PackageError(f"{name!r} does not belong into a package")


def _check_size(name: str, size: int) -> None:
    if size > _LARGEST_FILE:
        raise PackageError(f"{name} has {size} bytes, more than {_LARGEST_FILE}")
