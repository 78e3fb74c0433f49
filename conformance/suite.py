"""Which suite is running: version, the bytes of its source, and whether they are what they say.

A checkout is clean when git says so of the package's folders; an installed wheel is clean when its
files are those that its RECORD lists. Both detect accidents and forgotten edits; neither stops
someone who edits RECORD or git's index as well.
"""

import base64
import hashlib
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path

from glm5_hal import CONTRACT_VERSION
from glm5_hal.plan import package_version

PACKAGES = (
    "glm5_hal",
    "glm5_hal.backends",
    "glm5_hal.kernels",
    "glm5_hal.model",
    "glm5_hal.conformance",
)
FOLDERS = ("glm5_hal", "backends", "kernels", "model", "conformance", "pyproject.toml")
"""What of a checkout decides a result."""
EVIDENCE = "glm5_hal/conformance/evidence/"
"""Results of earlier runs, which decide nothing: they come and go without changing the suite."""


@dataclass(frozen=True)
class Suite:
    """The suite that runs or ran.

    Attributes:
        version: of the package.
        contract_version: of the op contract.
        source: SHA-256 over the path and SHA-256 of every file of the package.
        commit: git commit of the checkout; None for an installed wheel.
        dirty: whether the source is, or may be, another than version and commit say.
        state: how that is known, in a sentence.
    """

    version: str
    contract_version: int
    source: str
    commit: str | None
    dirty: bool
    state: str

    @classmethod
    def here(cls) -> "Suite":
        """The one that is running."""
        files = source_files()
        commit, problem, state = _state(files)
        return cls(
            version=package_version(),
            contract_version=CONTRACT_VERSION,
            source=_digest(files),
            commit=commit,
            dirty=bool(problem),
            state=problem or state,
        )

    @property
    def name(self) -> str:
        """Version of package and contract: lists of suites of one name are the same."""
        return f"{self.version}, contract {self.contract_version}"


def source_files() -> dict[str, Path]:
    """Every file of the package by its path in a wheel, sorted."""
    found: dict[str, Path] = {}
    for package in PACKAGES:
        root = _folder(package)
        for path in root.rglob("*"):
            place = path.relative_to(root)
            hidden = any(part.startswith(".") or part == "__pycache__" for part in place.parts)
            name = f"{package.replace('.', '/')}/{place.as_posix()}"
            if path.is_file() and not hidden and path.suffix != ".pyc" and _decides(name):
                found[name] = path
    return dict(sorted(found.items()))


def _decides(name: str) -> bool:
    return not name.startswith(EVIDENCE)


def _folder(package: str) -> Path:
    spec = find_spec(package)
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return Path(next(iter(spec.submodule_search_locations))).resolve()


def _digest(files: Mapping[str, Path]) -> str:
    total = hashlib.sha256()
    for name, path in files.items():
        total.update(f"{name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return total.hexdigest()


def _state(files: Mapping[str, Path]) -> tuple[str | None, str, str]:
    """Commit, what is wrong (empty if nothing), what is known."""
    root = _folder("glm5_hal").parent
    if (root / ".git").exists() and (root / "pyproject.toml").exists():
        return checkout_state(root)
    try:
        installed = distribution("glm5-hal")
    except PackageNotFoundError:
        return None, "neither a checkout nor an installed wheel", ""
    return None, wheel_problem(installed, files), "an installed wheel, as its RECORD lists it"


def checkout_state(root: Path) -> tuple[str | None, str, str]:
    """What git says of a checkout."""
    try:
        commit = _git(root, "rev-parse", "HEAD").strip()
        beside = f":(exclude){EVIDENCE.removeprefix('glm5_hal/')}"
        changed = _git(root, "status", "--porcelain", "--", *FOLDERS, beside).splitlines()
    except FileNotFoundError:
        return None, "a checkout, and no git to ask about it", ""
    except subprocess.CalledProcessError as error:
        return None, f"a checkout that git cannot read: {error.stderr.strip()}", ""
    if changed:
        paths = ", ".join(line[3:] for line in changed[:5])
        return commit, f"{len(changed)} changed or untracked paths: {paths}", ""
    return commit, "", "a checkout without changes"


def _git(root: Path, *arguments: str) -> str:
    # a status that writes nothing: the checkout may be read-only or in use
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(
        command, check=True, capture_output=True, text=True, env=environment
    ).stdout


def wheel_problem(installed: Distribution, files: Mapping[str, Path]) -> str:
    """Why an installation is not the wheel's; empty if it is."""
    listed = {}
    for entry in installed.files or ():
        own = entry.parts[0] == "glm5_hal" and "__pycache__" not in entry.parts
        if own and entry.hash and _decides(entry.as_posix()):
            listed[entry.as_posix()] = (entry.hash.mode, entry.hash.value)
    if not listed:
        return "an installation without a RECORD of its files"
    if missing := sorted(set(listed) - set(files)):
        return f"files of RECORD are missing: {', '.join(missing[:5])}"
    if extra := sorted(set(files) - set(listed)):
        return f"files that RECORD does not list: {', '.join(extra[:5])}"
    for name, (mode, value) in listed.items():
        found = hashlib.new(mode, files[name].read_bytes()).digest()
        if base64.urlsafe_b64encode(found).rstrip(b"=").decode() != value:
            return f"{name} is not the file that RECORD lists"
    return ""
