"""The specification as pages: one an op, made from the op files and the catalogue.

``python -m glm5_hal.conformance.spec DIR`` writes them; a test keeps the committed ones current.
"""

import inspect
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from glm5_hal.conformance.catalogue import catalogue
from glm5_hal.conformance.families import FAST_ONLY
from glm5_hal.contract import CONTRACT_VERSION, OPS, Array, Kind, Op, Requirement
from glm5_hal.levels import Numerics
from glm5_hal.requirements import GENERAL

_HEAD = "<!-- Made by `python -m glm5_hal.conformance.spec`. Edit the op file, not this page. -->\n"


def pages() -> dict[str, str]:
    """File name to markdown: ``index.md``, ``general.md`` and one page an op."""
    return {
        "index.md": _index(),
        "general.md": _general(),
        **{f"{name}.md": op_page(OPS[name]) for name in sorted(OPS)},
    }


def op_page(op: Op[..., object]) -> str:
    """Signature, shapes, meaning, requirements and reference of one op."""
    doc = inspect.cleandoc(op.__doc__ or "")
    own = "" if op.profile is None else f" It exists in the {op.profile.value} profile only."
    parts = [
        f"# {op.name}",
        f"{op.kind.value.capitalize()} op of contract version {CONTRACT_VERSION}.{own}",
        doc,
        "## Arguments and results",
        _shapes(op),
        "## Requirements",
        _requirements([req for req in op.requirements.values() if req.profile is op.profile]),
        "## Reference",
        _source(op.reference),
        *_exact(op),
    ]
    return _HEAD + "\n" + "\n\n".join(parts) + "\n"


def _source(function: Callable[..., object]) -> str:
    source = inspect.getsource(function)
    body = source[source.index("def ") :]
    return f"```python\n{body.rstrip()}\n```"


def _exact(op: Op[..., object]) -> list[str]:
    """What defines the op in the exact profile."""
    if op.profile is Numerics.EXACT:
        return []
    if op.name in FAST_ONLY:
        said = [f"Not part of it: {FAST_ONLY[op.name]}."]
    elif op.exact_rule is not None:
        exact = [req for req in op.requirements.values() if req.profile is Numerics.EXACT]
        said = [_requirements(exact), _source(op.exact_rule)]
    elif op.kind is Kind.COMPOSITE:
        said = ["Defined by its composition:", _source(op.default)]
    else:
        said = ["The reference defines it to the bit: the op moves or orders values."]
    return ["## Exact profile", *said]


def _shapes(op: Op[..., object]) -> str:
    rows = ["| name | shape | dtype | default |", "|---|---|---|---|"]
    for name, parameter in op.signature.parameters.items():
        array = op.arguments.get(name)
        empty = parameter.default is inspect.Parameter.empty
        default = "" if empty else f"`{parameter.default!r}`"
        rows.append(f"| `{name}` | {_shape(array)} | {_dtype(array, parameter)} | {default} |")
    for number, array in enumerate(op.results):
        name = "result" if len(op.results) == 1 else f"result {number}"
        rows.append(f"| {name} | {_shape(array)} | {_dtype(array, None)} | |")
    return "\n".join(rows)


def _shape(array: Array | None) -> str:
    return "" if array is None else f"[{', '.join(dim.text for dim in array.dims)}]"


def _dtype(array: Array | None, parameter: inspect.Parameter | None) -> str:
    if array is not None and array.dtypes is not None:
        return array.dtypes.label
    if parameter is None or array is not None:
        return "any"
    annotation = parameter.annotation
    return f"`{getattr(annotation, '__name__', annotation)}`"


def _requirements(requirements: list[Requirement]) -> str:
    counts = Counter(case.requirement for case in catalogue().values())
    rows = ["| id | requirement | cases |", "|---|---|---|"]
    rows += [f"| {req.id} | {req.text} | {counts[req.id]} |" for req in requirements]
    return "\n".join(rows)


def _general() -> str:
    parts = [
        "# Requirements of every op and of the model",
        "RUN and GUARD hold for each op, MODEL for the whole model.",
        _requirements([req for req in GENERAL.values() if req.profile is None]),
        "## Exact profile",
        "What the exact rules of the ops are made of, and what their bytes add up to.",
        _requirements([req for req in GENERAL.values() if req.profile is Numerics.EXACT]),
    ]
    return _HEAD + "\n" + "\n\n".join(parts) + "\n"


def _index() -> str:
    counts = Counter(case.op for case in catalogue().values())
    rows = ["| op | kind | requirements | cases |", "|---|---|---|---|"]
    for name in sorted(OPS):
        op = OPS[name]
        ids = ", ".join(op.requirements)
        rows.append(f"| [{name}]({name}.md) | {op.kind.value} | {ids} | {counts[name]} |")
    parts = [
        f"# Specification of contract version {CONTRACT_VERSION}",
        "Tokens are packed `[T, ...]`, without a batch dimension. Activations may be strided views "
        "whose last dimension is contiguous. Integers are int32. Weights and caches are handles "
        "that a backend makes and no one else looks into.",
        "\n".join(rows),
        "What holds for all of them: [general requirements](general.md).",
    ]
    return _HEAD + "\n" + "\n\n".join(parts) + "\n"


def write(folder: Path) -> None:
    """Write every page; pages of ops that are gone are removed."""
    folder.mkdir(parents=True, exist_ok=True)
    made = pages()
    for stale in set(folder.glob("*.md")) - {folder / name for name in made}:
        stale.unlink()
    for name, text in made.items():
        (folder / name).write_text(text)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
