"""Recording a model's op calls, so that its own shapes become cases.

Run a model once under `Recorder`, write what it saw, and put the file into `recorded/`: every
distinct shape of every op is then checked like the hand-written ones.
"""

import json
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from glm5_hal import Cache, PagedContext
from glm5_hal.conformance.shapes import symbols
from glm5_hal.contract import Op


class Recorder:
    """An observer of a runtime: ``runtime.observers.append(recorder)``.

    Attributes:
        shapes: op to its distinct shapes, each symbol to size, in order of first appearance.
    """

    def __init__(self) -> None:
        self.shapes: dict[str, list[dict[str, int]]] = {}

    def __call__(
        self, op: Op[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Any
    ) -> None:
        """Note one finished call."""
        sizes = sizes_of(op, args, kwargs)
        seen = self.shapes.setdefault(op.name, [])
        if sizes not in seen:
            seen.append(sizes)

    def to_json(self) -> str:
        """The recording as it is kept."""
        ordered = {op: self.shapes[op] for op in sorted(self.shapes)}
        return json.dumps(ordered, indent=1) + "\n"


def sizes_of(op: Op[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, int]:
    """Sizes of a call in the suite's symbols (see `shapes.SHAPES`)."""
    values = op.signature.bind(*args, **kwargs).arguments
    dims = dict(op.check_arguments(args, kwargs))
    for value in values.values():
        if isinstance(value, Cache):
            dims |= {"page": value.page_size, "pages": value.pages}
        if isinstance(value, PagedContext):
            dims["S"] = value.max_length
    if "indices" in op.signature.parameters:
        indices = values.get("indices")
        dims["k"] = indices.shape[1] if isinstance(indices, Tensor) else 0
    if "experts" in dims:
        dims["E"] = dims["experts"]
    return {symbol: dims[symbol] for symbol in symbols(op.name) if symbol in dims}
