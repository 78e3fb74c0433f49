"""The pages of the backends: what their files say, and their README.

``python docs/tools/backends.py DIR`` writes ``DIR/backends``.
"""

import inspect
import re
import sys
from collections.abc import Iterable
from pathlib import Path

import torch

from glm5_hal import Backend, Level, Numerics
from glm5_hal.backends.torch_triton.descriptor import Descriptor
from glm5_hal.backends.torch_triton.device import TorchDeviceBackend
from glm5_hal.contract import OPS
from glm5_hal.registry import aliases, load, registered

ROOT = Path(__file__).parents[2]
LINK = re.compile(r"\]\((?![a-z]+:|#|/)([^)\s]+)\)")
"""A link within the repository."""


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A Markdown table; empty where there are no rows."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join((f"| {' | '.join(head)} |", "|" + "---|" * len(head), *lines)) if lines else ""


def folder_of(backend: type[Backend]) -> str:
    """The folder below backends/ in which a class lies."""
    return Path(inspect.getfile(backend)).parent.name


def others(name: str) -> list[str]:
    """Further names of a backend, as code."""
    return [f"`{alias}`" for alias, of in sorted(aliases().items()) if of == name]


def dtypes(backend: type[Backend]) -> str:
    """The activation dtypes it takes."""
    short = {torch.bfloat16: "bf16", torch.float32: "fp32", torch.float16: "fp16"}
    return ", ".join(sorted(short.get(d, str(d)) for d in backend.capabilities.dtypes))


def claims(backend: type[Backend], numerics: Numerics) -> str:
    """The levels that it promises in a profile, in their order."""
    promised = backend.capabilities.claims.get(numerics, frozenset())
    return ", ".join(level.value for level in Level if level in promised) or "nothing"


def declared(backend: type[Backend]) -> str:
    """What the class declares."""
    said = [(f"`{name}`", why) for name, why in backend.capabilities.unsupported.items()]
    own = [(f"`{v.name}`", f"`{v.values}`", v.default, v.meaning) for v in backend.variables]
    profiles = [n for n in Numerics if n in backend.capabilities.profiles]
    parts = [
        "## Declared",
        "A promise, not a result; a [result package](../verify/submit.md) shows what holds.",
        table(("profile", "levels claimed"), ((n.value, claims(backend, n)) for n in profiles)),
        table(("optional op left out", "reason"), said),
        table(("variable of its own", "values", "unset", "meaning"), own),
    ]
    return "\n\n".join(part for part in parts if part)


def described(about: Descriptor) -> str:
    """What backend.yaml says, as tables."""
    code = [(f"`{r.fact}`", "there" if r.present else "absent", r.otherwise) for r in about.rules]
    needed = [
        *(
            (f"`{v.variable}`", " or ".join(f"`{a}`" for a in v.accepts), v.why)
            for v in about.variables
        ),
        *((f"`{a.variable}`", "not set", a.why) for a in about.absent),
        *((f"`{f.flag}`", f"`{f.value}`", f"{f.why} (set by the backend)") for f in about.flags),
    ]
    numbers = [
        ("float64", about.numbers.float64),
        ("int64", about.numbers.int64),
        ("subnormal numbers", about.numbers.subnormals),
        ("float32 products in Triton, unless asked", about.numbers.float32_products),
    ]
    compiler = [("Triton", about.triton.package), ("target", about.triton.target)]
    compiler += [("limit", limit) for limit in about.triton.limits]
    names = ", ".join(f"`{name}`" for name in about.visible.variables) or "–"
    device = [
        ("torch device", f"`{about.device_type}`"),
        ("collectives", f"`{about.collectives}`"),
        ("recorded decode steps", f"`{about.graphs}`" if about.graphs else "none"),
        ("variables that choose devices", names),
    ]
    avoided = [(f"`{name}`", why) for name, why in about.nondeterministic.items()]
    parts = [
        ("Device", table(("property", "value"), device)),
        ("Detection", "All must hold.\n\n" + table(("fact", "must be", "otherwise"), code)),
        (
            "Variables and flags",
            "`glm5-hal doctor` shows how they stand.\n\n"
            + table(("name", "must be", "why"), needed)
            if needed
            else "None is known.",
        ),
        ("Numbers", table(("kind", "on this chip"), numbers)),
        ("Compiler", table(("property", "value"), compiler)),
        ("Ops of torch that are not called", table(("op", "why"), avoided)),
        ("Not established", "\n".join(f"- {text}" for text in about.unestablished)),
    ]
    shown = [f"## {title}\n\n{text}" for title, text in parts if text]
    return "\n\n".join(shown)


def readme(folder: str) -> str | None:
    """The README of a folder, with links as from docs/backends/."""
    path = ROOT / "backends" / folder / "README.md"
    if not path.exists():
        return None
    return LINK.sub(rf"](../../backends/{folder}/\1)", path.read_text("utf-8").strip())


def page(name: str, backend: type[Backend]) -> str:
    """The page of one backend."""
    folder = folder_of(backend)
    doc = inspect.getdoc(backend) or ""
    head, _, body = (readme(folder) or f"# {name}\n\n{doc}").partition("\n\n")
    names = ", ".join((f"`{name}`", *others(name)))
    facts = f"`GLM5_HAL_BACKEND` takes {names}. Activations: {dtypes(backend)}."
    parts = [head, facts, body, declared(backend)]
    if issubclass(backend, TorchDeviceBackend):
        source = f"../../backends/{folder}/backend.yaml"
        parts += [
            "Everything below is what [backend.yaml]" + f"({source}) says.",
            described(backend._descriptor()),
        ]
    return "\n\n".join(parts) + "\n"


def ours() -> dict[str, type[Backend]]:
    """The backends of this package; others may be installed here."""
    points = registered().items()
    return {name: load(name) for name, point in points if point.value.startswith("glm5_hal.")}


def index() -> str:
    """The list of backends."""
    rows = []
    for name, backend in ours().items():
        profiles = ", ".join(n.value for n in Numerics if n in backend.capabilities.profiles)
        link = f"[{name}]({folder_of(backend)}.md)"
        rows.append((link, ", ".join(others(name)) or "–", profiles, dtypes(backend)))
    return (
        "# Backends\n\n"
        "Made from the classes and their files. Whether anything was run on the chip stands under "
        "*Verified* on each page; what files show, op by op, is in the "
        "[support matrix](../matrix.md).\n\n"
        + table(("backend", "also called", "profiles", "activations"), rows)
        + "\n\nChips with a torch device and a Triton compiler share "
        f"[one base](torch_triton.md). A backend answers up to {len(OPS)} ops; which ones stands "
        "on the page of each [op](../spec/index.md). To add a chip, see "
        "[Port a chip](../guide/porting.md).\n"
    )


def main() -> None:
    """Write the pages."""
    folder = Path(sys.argv[1]) / "backends"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "index.md").write_text(index(), "utf-8")
    for name, backend in ours().items():
        (folder / f"{folder_of(backend)}.md").write_text(page(name, backend), "utf-8")
    for shared in sorted((ROOT / "backends").glob("*/README.md")):  # a base, and no backend
        place = folder / f"{shared.parent.name}.md"
        if not place.exists():
            place.write_text(f"{readme(shared.parent.name)}\n", "utf-8")


if __name__ == "__main__":
    main()
