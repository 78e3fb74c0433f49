"""Data flows one way, and no vendor is named outside its own folder: read from the source."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BELOW = ("glm5_hal.backends", "glm5_hal.kernels", "glm5_hal.model", "glm5_hal.conformance")

VENDOR_WORDS = (
    *("cuda", "nvidia", "cudnn", "cublas", "nccl"),
    *("ascend", "npu", "cann", "hccl", "huawei"),
    *("musa", "mthreads", "moore"),
    *("hygon", "dcu", "rocm", "amd"),
    *("cambricon", "mlu", "cncl"),
    *("kunlun", "kunlunxin", "xpu"),
    *("metax", "maca"),
    *("enflame", "gcu"),
    *("onnxruntime", "ort"),
)
ENGLISH = {"ascend"}
"""Also verbs: in a sentence, a string with spaces, they name nobody."""
ALLOWED = {
    # an example in an error message
    "glm5_hal/registry.py": {"cuda"},
    # scripts that are written beside what they run, to be used without the package
    "conformance/onnx_packs/run.py": {"onnxruntime", "ort"},
    "model/onnx_export/run_example.py": {"onnxruntime", "ort"},
}
"""Words that a file may hold in strings and identifiers; comments and docstrings hold any."""

_PARTS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")


def sources(*folders: str) -> list[Path]:
    """Python files under top-level folders."""
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def imported(source: str, package: str) -> Iterator[str]:
    """Absolute names of all modules that a source imports, anywhere in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join([*(above if node.level else []), *filter(None, [node.module])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def docstrings(tree: ast.AST) -> set[tuple[int, int]]:
    """Where string statements begin: docstrings of modules, classes, functions and attributes."""
    return {
        (node.value.lineno, node.value.col_offset)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    }


def words(source: str) -> Iterator[tuple[int, str]]:
    """(line, word) of identifiers and strings, cut at underscores and capitals, lower case."""
    skipped = docstrings(ast.parse(source))
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        kind = tokenize.tok_name[token.type]
        if kind == "NAME" or (
            kind in ("STRING", "FSTRING_MIDDLE", "TSTRING_MIDDLE") and token.start not in skipped
        ):
            known = ENGLISH if " " in token.string else set()
            parts = (part.lower() for part in _PARTS.findall(token.string))
            yield from ((token.start[0], part) for part in parts if part not in known)


def vendor_words(source: str) -> list[tuple[int, str]]:
    """(line, vendor word) of a source."""
    return [(line, word) for line, word in words(source) if word in VENDOR_WORDS]


@pytest.mark.parametrize("path", sources("glm5_hal"), ids=lambda path: str(path.relative_to(ROOT)))
def test_the_contract_imports_nothing_below_it(path: Path) -> None:
    inside = path.relative_to(ROOT)
    if inside.parts[1] == "cli":
        return  # the command line may use the model and the suite
    package = ".".join(inside.parent.parts)
    for name in imported(path.read_text("utf-8"), package):
        assert not any(name == low or name.startswith(f"{low}.") for low in BELOW), name


@pytest.mark.parametrize(
    "path",
    sources("glm5_hal", "kernels", "model", "conformance")
    + sorted((ROOT / "backends").glob("*.py"))
    + sources("backends/c_abi", "backends/cpu", "backends/cpu_limbs", "backends/described")
    + sources("backends/torch_triton"),
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_no_vendor_is_named_outside_its_folder(path: Path) -> None:
    allowed = ALLOWED.get(path.relative_to(ROOT).as_posix(), set())
    found = vendor_words(path.read_text("utf-8"))
    assert not [(line, word) for line, word in found if word not in allowed]


def test_no_exception_outlives_its_reason() -> None:
    for name, allowed in ALLOWED.items():
        found = {word for _, word in vendor_words((ROOT / name).read_text("utf-8"))}
        assert allowed <= found, name


def test_the_model_knows_no_backend() -> None:
    for path in sources("model", "kernels"):
        package = ".".join(("glm5_hal", *path.relative_to(ROOT).parent.parts))
        for name in imported(path.read_text("utf-8"), package):
            assert not name.startswith(("glm5_hal.backends", "glm5_hal.conformance")), (path, name)


def test_the_import_walk_sees_every_form() -> None:
    source = """
import glm5_hal.model
from glm5_hal import conformance
from .. import kernels
from ..backends.cpu import tiles
def f():
    from glm5_hal.backends import cpu
"""
    found = set(imported(source, "glm5_hal.ops"))
    assert {
        "glm5_hal.model",
        "glm5_hal.conformance",
        "glm5_hal.kernels",
        "glm5_hal.backends.cpu",
        "glm5_hal.backends",
    } <= found


def test_the_word_walk_sees_code_and_skips_prose() -> None:
    source = '''"""cuda"""  # cuda
class CudaStream:
    """cuda"""
    kind = f"npu:{0}"
    field: int
    """cuda"""
def use_mlu(): return torch.xpu.DCUThing
barracuda = "cudagraph", "ids ascend", "ascend"
'''
    assert vendor_words(source) == [
        (2, "cuda"),
        (4, "npu"),
        (7, "mlu"),
        (7, "xpu"),
        (7, "dcu"),
        (8, "ascend"),
    ]
