"""A package stands as it was made, and falls with any change."""

import base64
import hashlib
import io
import json
import subprocess
import tarfile
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import PathDistribution
from pathlib import Path
from typing import Any

import fake_cases
import pytest
from fake_runs import CLEAN, run, source

from glm5_hal.conformance import agreement, machine, records
from glm5_hal.conformance import package as packaging
from glm5_hal.conformance import suite as suites
from glm5_hal.conformance.case import Status
from glm5_hal.conformance.errors import PackageError
from glm5_hal.conformance.manifest import encode
from glm5_hal.conformance.mustpass import MustPass
from glm5_hal.conformance.package import Package, pack, read, render_report, seal, tar_of
from glm5_hal.conformance.runner import Outcome, Request
from glm5_hal.conformance.sources import Source
from glm5_hal.conformance.suite import Suite
from glm5_hal.conformance.verify import verify


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("package")


@pytest.fixture(scope="module")
def lists(folder: Path) -> Source:
    return source(fake_cases.good, folder / "lists")


@pytest.fixture(scope="module")
def outcome(folder: Path, lists: Source) -> Outcome:
    return run(Request(source=lists), folder / "good")


@pytest.fixture(scope="module")
def package(outcome: Outcome, folder: Path) -> Package:
    return seal(outcome, folder / "good")


@pytest.fixture(autouse=True)
def released(monkeypatch: pytest.MonkeyPatch) -> None:
    """Verify as the suite that made the packages."""
    monkeypatch.setattr(Suite, "here", classmethod(lambda cls: CLEAN))


def test_a_whole_package_stands(package: Package, folder: Path, lists: Source) -> None:
    for path in (folder / "good", folder / "good.tar"):
        found = read(path)
        assert verify(found, lists) == []
        assert found.id == package.id


def test_the_manifest_says_what_ran(package: Package, outcome: Outcome) -> None:
    manifest = package.manifest
    assert manifest["backend"] == "chip"
    assert manifest["plan_hash"] == outcome.job.plan.hash
    assert manifest["counts"]["PASS"] == 5
    assert manifest["counts"]["CRASH"] == 0
    assert manifest["shown"]["levels"] == {"run-to-run": ["topk"], "batch-invariant": ["topk"]}
    assert (
        manifest["levels_without_cases"]["rank-invariant"] == "does not exist yet in this version"
    )
    assert manifest["warnings"] == ["waiver 'NOTHING/*' matches no case"]
    assert manifest["must_pass_hash"] == outcome.job.must_pass.sha256
    assert manifest["seeds"] == {"data": 20260211}
    assert set(manifest["files"]) == set(packaging.FILES)


def test_sealing_again_changes_nothing(package: Package, outcome: Outcome, folder: Path) -> None:
    before = tar_of(folder / "good").read_bytes()
    assert seal(outcome, folder / "good").id == package.id
    assert tar_of(folder / "good").read_bytes() == before


def test_the_report_can_be_made_again(package: Package) -> None:
    assert render_report(package).encode() == package.files["report.html"]


# --- edits of single files: found by their hashes ---


@pytest.mark.parametrize("name", packaging.FILES)
def test_an_edited_file_is_found(package: Package, lists: Source, name: str) -> None:
    edited = Package({**package.files, name: package.files[name] + b" "})
    assert verify(edited, lists) == [
        f"{name} is not the file that was packed: its SHA-256 differs from the manifest's"
    ]


@pytest.mark.parametrize("name", packaging.FILES)
def test_a_lost_file_is_found(package: Package, lists: Source, name: str) -> None:
    files = {other: content for other, content in package.files.items() if other != name}
    assert verify(Package(files), lists) == [f"{name} is missing"]


# --- edits that bring the hashes along: found by what must follow from what ---

Manifest = dict[str, Any]
Edit = Callable[[Manifest, dict[str, bytes]], None]


def resealed(package: Package, edit: Edit) -> Package:
    """The package after an edit by someone who recomputes every hash."""
    manifest, files = package.manifest, dict(package.files)
    edit(manifest, files)
    manifest["files"] = {name: hashlib.sha256(files[name]).hexdigest() for name in packaging.FILES}
    return Package({**files, "manifest.json": encode(manifest)})


def lines(files: dict[str, bytes], change: Callable[[list[str]], list[str]]) -> None:
    before = files["results.jsonl"].decode().splitlines()
    files["results.jsonl"] = "".join(f"{text}\n" for text in change(before)).encode()


def drop_a_case(manifest: Manifest, files: dict[str, bytes]) -> None:
    lines(files, lambda all_lines: all_lines[1:])


def drop_a_case_and_its_name(manifest: Manifest, files: dict[str, bytes]) -> None:
    lines(files, lambda all_lines: all_lines[1:])
    ids = records.parse_all(files["results.jsonl"])
    shorter = MustPass.of("fast-full", ids)
    files["must-pass.txt"] = shorter.content
    manifest["must_pass_hash"] = shorter.sha256


def repeat_a_case(manifest: Manifest, files: dict[str, bytes]) -> None:
    lines(files, lambda all_lines: [*all_lines, all_lines[0]])


def break_a_line(manifest: Manifest, files: dict[str, bytes]) -> None:
    lines(files, lambda all_lines: [all_lines[0][:-2], *all_lines[1:]])


def tear_the_last_line(manifest: Manifest, files: dict[str, bytes]) -> None:
    files["results.jsonl"] = files["results.jsonl"][:-5]


def change_status(case: str, status: Status) -> Edit:
    def edit(manifest: Manifest, files: dict[str, bytes]) -> None:
        results = records.parse_all(files["results.jsonl"])
        before = results[case]
        results[case] = replace(before, status=status)
        files["results.jsonl"] = records.lines(results.values())
        manifest["counts"][before.status.value] -= 1
        manifest["counts"][status.value] += 1

    return edit


def remove_waivers(manifest: Manifest, files: dict[str, bytes]) -> None:
    files["waivers.yaml"] = b"[]\n"
    manifest["waivers"] = []


def set_value(key: str, value: object) -> Edit:
    def edit(manifest: Manifest, files: dict[str, bytes]) -> None:
        manifest[key] = value

    return edit


def remove_value(key: str) -> Edit:
    def edit(manifest: Manifest, files: dict[str, bytes]) -> None:
        del manifest[key]

    return edit


def edit_plan(manifest: Manifest, files: dict[str, bytes]) -> None:
    manifest["plan"]["versions"]["torch"] = "9.9.9"


def substitute(manifest: Manifest, files: dict[str, bytes]) -> None:
    manifest["plan"]["ops"]["linear"] = {"source": "substitute", "where": "cpu"}


def paint_the_report(manifest: Manifest, files: dict[str, bytes]) -> None:
    files["report.html"] = b"<h1>all is well</h1>"


def paint_the_junit(manifest: Manifest, files: dict[str, bytes]) -> None:
    files["junit.xml"] = b"<testsuites/>"


def count_more(manifest: Manifest, files: dict[str, bytes]) -> None:
    manifest["counts"]["PASS"] += 1


@pytest.mark.parametrize(
    ("edit", "problem"),
    [
        (drop_a_case, "1 cases of the must-pass list fast-full are missing: TOPK-1/parity/a"),
        (drop_a_case_and_its_name, "the must-pass list is not the fast-full of suite 9.9"),
        (repeat_a_case, "results.jsonl, line 9: second result of TOPK-1/parity/a"),
        (break_a_line, "results.jsonl, line 1: no JSON"),
        (tear_the_last_line, "results.jsonl ends in the middle of a line"),
        (change_status("TOPK-1/parity/a", Status.FAIL), "TOPK-1/parity/a: FAIL"),
        (change_status("TOPK-1/parity/a", Status.NOT_RUN), "was not run, though function is"),
        (change_status("RUN-1/repeat/topk", Status.NOT_RUN), "was not run, though run-to-run is"),
        (
            change_status("TOPK-5/invariance/a", Status.NOT_RUN),
            "was not run, though batch-invariant is mandatory or claimed",
        ),
        (change_status("TOPK-1/parity/a", Status.UNSUPPORTED), "topk may not be unsupported"),
        (change_status("TOPK-1/parity/a", Status.EXPECTED_FAIL), "no waiver names it"),
        (change_status("TOPK-2/waived/a", Status.PASS), "TOPK-2/waived/a: passes, but is waived"),
        (remove_waivers, "TOPK-2/waived/a: counts as an expected failure, but no waiver names it"),
        (set_value("waivers", []), "the manifest's waivers are not those of waivers.yaml"),
        (set_value("dirty", True), "claims nothing: the suite was dirty"),
        (set_value("ops", ["topk"]), "claims nothing: a partial selection"),
        (set_value("case", "TOPK-1/parity/a"), "claims nothing: a partial selection"),
        (set_value("unsupported", {}), "mla_expanded may not be unsupported"),
        (set_value("plan_hash", "0" * 64), "the plan's hash is not that of the plan"),
        (set_value("backend", "cpu"), "the plan is of chip, not of cpu"),
        (set_value("quick", True), "the manifest names another must-pass list"),
        (set_value("must_pass_hash", "0" * 64), "the manifest names another must-pass list"),
        (set_value("shown", {"levels": {}}), "what the manifest says is shown does not follow"),
        (set_value("suite_version", "9.8"), "its must-pass list cannot be compared"),
        (set_value("format", 99), "format 99, this version reads 1"),
        (set_value("plan", None), "the manifest is not of format 1"),
        (remove_value("counts"), "the manifest is not of format 1: KeyError"),
        (paint_the_report, "report.html is not the report of these results"),
        (paint_the_junit, "junit.xml is not that of these results"),
        (edit_plan, "the plan's hash is not that of the plan"),
        (substitute, "claims nothing: ops ran on the CPU instead: linear"),
        (count_more, "the manifest's counts are not those of the results"),
    ],
)
def test_an_edit_with_new_hashes_is_found(
    package: Package, lists: Source, edit: Edit, problem: str
) -> None:
    found = verify(resealed(package, edit), lists)
    assert any(problem in text for text in found), found
    assert resealed(package, edit).id != package.id


def test_a_changed_list_of_the_suite_is_found(package: Package, tmp_path: Path) -> None:
    MustPass.of("fast-full", [*fake_cases.good(), "TOPK-9/a"]).freeze(tmp_path)
    assert verify(package, Source(lists=tmp_path)) == [
        "the must-pass list is not the fast-full of suite 9.9, contract 1"
    ]


# --- what is no package ---


def tar_with(files: dict[str, bytes], folder: str = "glm5-hal-conformance") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"{folder}/{name}")
            entry.size, entry.mtime = len(content), 1
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def link() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        entry = tarfile.TarInfo("glm5-hal-conformance/results.jsonl")
        entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(entry)
    return buffer.getvalue()


def test_a_truncated_tar_is_refused(package: Package, tmp_path: Path) -> None:
    whole = pack(package.files)
    for size in (0, 100, 700, len(whole) // 2, len(whole) - 10240, len(whole) - 1):
        path = tmp_path / "a.tar"
        path.write_bytes(whole[:size])
        with pytest.raises(PackageError, match=r"truncated|no tar|holds no manifest"):
            read(path)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (tar_with({"results.jsonl": b""}, "elsewhere"), "does not belong"),
        (tar_with({"../../x": b""}), "does not belong"),
        (tar_with({"notes.txt": b""}), "does not belong"),
        (link(), "does not belong"),
        (tar_with({"results.jsonl": b""}), "not as the suite packed it"),
        (pack({"results.jsonl": b""}), "holds no manifest.json"),
    ],
)
def test_a_tar_that_is_no_package(content: bytes, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(content)
    with pytest.raises(PackageError, match=problem):
        read(path)


def test_a_large_file_is_refused(
    package: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packaging, "_LARGEST_FILE", 100)
    path = tmp_path / "a.tar"
    path.write_bytes(pack(package.files))
    with pytest.raises(PackageError, match="more than 100"):
        read(path)


def test_a_directory_that_is_no_package(tmp_path: Path) -> None:
    with pytest.raises(PackageError, match=r"holds no manifest\.json"):
        read(tmp_path)
    (tmp_path / "manifest.json").symlink_to("/etc/hostname")
    with pytest.raises(PackageError, match="no plain file"):
        read(tmp_path)
    (tmp_path / "manifest.json").unlink()
    (tmp_path / "manifest.json").write_text("[")
    assert verify(read(tmp_path))[0].startswith("manifest.json is no JSON")


# --- two packages ---


def with_digest(package: Package, case: str, digest: str) -> Package:
    results = records.parse_all(package.files["results.jsonl"])
    results[case] = replace(results[case], digests={"output0": digest})
    return Package({**package.files, "results.jsonl": records.lines(results.values())})


def test_compare_agrees_with_itself(package: Package) -> None:
    found = agreement.compare(package, package)
    assert len(found.pairs) == 5
    assert found.broken == ()
    assert found.only == ((), ())
    assert ("topk", "function", "2/2", "yes") in found.rows()
    assert ("linear", "function", "1/1", "no") in found.rows()


def test_only_exact_ops_have_to_agree(package: Package) -> None:
    other = with_digest(package, "LINEAR-1/parity/a", "0" * 64)
    assert agreement.compare(package, other).broken == ()
    other = with_digest(other, "TOPK-1/parity/b", "0" * 64)
    (broken,) = agreement.compare(package, other).broken
    assert broken.result.id == "TOPK-1/parity/b"


def test_compare_says_what_is_on_one_side(package: Package) -> None:
    def edit(manifest: Manifest, files: dict[str, bytes]) -> None:
        drop_a_case(manifest, files)
        manifest["suite_version"] = "9.8"

    found = agreement.compare(package, resealed(package, edit))
    assert found.only == (("TOPK-1/parity/a",), ())
    assert found.remarks == ("made by different suites: 9.9, contract 1 and 9.8, contract 1",)


def test_profiles_are_not_compared(package: Package) -> None:
    with pytest.raises(PackageError, match="one package is fast, the other exact"):
        agreement.compare(package, resealed(package, set_value("profile", "exact")))


# --- records, machine, suite ---


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("status", "GREAT"),
        ("seconds", -1),
        ("seconds", True),
        ("worst", "0.5"),
        ("digests", {"output0": 5}),
        ("ulps", {"many": 1}),
        ("ulps", []),
        ("difference", {"output": 0}),
        ("message", None),
    ],
)
def test_a_line_is_checked(outcome: Outcome, key: str, value: object) -> None:
    data = records.plain(outcome.results[0])
    assert records.parse(json.dumps(data)) == outcome.results[0]
    with pytest.raises(records.RecordError, match=key):
        records.parse(json.dumps({**data, key: value}))
    with pytest.raises(records.RecordError, match="not the fields"):
        records.parse(json.dumps({k: v for k, v in data.items() if k != key}))
    with pytest.raises(records.RecordError, match="no JSON"):
        records.parse(records.line(outcome.results[0]).replace('"worst":0.5', '"worst":NaN'))


def test_the_environment_is_an_allow_list() -> None:
    environ = {
        "GLM5_HAL_BACKEND": "cpu",
        "GLM5_HAL_TOKEN": "secret",
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        "OMP_NUM_THREADS": "2",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "HOME": "/home/someone",
    }
    assert list(machine.environment(environ)) == [
        "CUBLAS_WORKSPACE_CONFIG",
        "GLM5_HAL_BACKEND",
        "OMP_NUM_THREADS",
    ]


def git(root: Path, *arguments: str) -> None:
    who = ("-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "commit.gpgsign=false")
    subprocess.run(["git", "-C", str(root), *who, *arguments], check=True, capture_output=True)


def test_a_checkout_is_clean_or_not(tmp_path: Path) -> None:
    (tmp_path / "conformance").mkdir()
    (tmp_path / "conformance" / "a.py").write_text("a = 1\n")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "a")
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "run.json").write_text("{}")  # --out beside the source is no dirt
    commit, problem, state = suites.checkout_state(tmp_path)
    assert commit is not None
    assert (len(commit), problem, state) == (40, "", "a checkout without changes")
    (tmp_path / "conformance" / "b.py").write_text("b = 1\n")
    (tmp_path / "conformance" / "a.py").write_text("a = 2\n")
    assert suites.checkout_state(tmp_path)[1] == (
        "2 changed or untracked paths: conformance/a.py, conformance/b.py"
    )


def test_a_checkout_that_git_cannot_read_is_dirty(tmp_path: Path) -> None:
    assert "git cannot read" in suites.checkout_state(tmp_path)[1]


def test_an_installed_wheel_is_clean_or_not(tmp_path: Path) -> None:
    info, code = tmp_path / "glm5_hal-1.dist-info", tmp_path / "glm5_hal"
    info.mkdir()
    code.mkdir()
    (code / "a.py").write_text("a = 1\n")
    (info / "METADATA").write_text("Name: glm5-hal\nVersion: 1\n")
    (info / "RECORD").write_text("glm5_hal-1.dist-info/METADATA,,\n")
    installed = PathDistribution(info)
    files = {"glm5_hal/a.py": code / "a.py"}
    assert "without a RECORD" in suites.wheel_problem(installed, files)
    digest = "sha256=ioAPLLsJPqBbMVDYKBDxCfXmGpxjH5tRWOzmVhJy0Pw"
    (info / "RECORD").write_text(f"glm5_hal/a.py,{digest},6\nglm5_hal/__pycache__/a.pyc,,\n")
    assert "not the file that RECORD lists" in suites.wheel_problem(installed, files)
    right = base64.urlsafe_b64encode(hashlib.sha256(b"a = 1\n").digest()).rstrip(b"=").decode()
    (info / "RECORD").write_text(f"glm5_hal/a.py,sha256={right},6\n")
    assert suites.wheel_problem(installed, files) == ""
    extra = {**files, "glm5_hal/b.py": code / "a.py"}
    assert "RECORD does not list: glm5_hal/b.py" in suites.wheel_problem(installed, extra)
    assert "missing: glm5_hal/a.py" in suites.wheel_problem(installed, {})


def test_the_source_of_the_suite_is_named() -> None:
    files = suites.source_files()
    assert "glm5_hal/conformance/suite.py" in files
    assert "glm5_hal/ops/topk.py" in files
    assert not any(name.endswith(".pyc") for name in files)
