"""Rows of a paged cache as each token sees them."""

from __future__ import annotations

from dataclasses import dataclass

from glm5_hal.kernels.onnx.builder import I32, I64, Value, where
from glm5_hal.kernels.onnx.entry import Call


@dataclass(frozen=True)
class Visible:
    """Cached rows by token.

    Attributes:
        rows: [T, S, W]; where not seen, some row of the cache.
        seen: [T, S] bool.
    """

    rows: Value
    seen: Value


def visible(call: Call, cache: str) -> Visible:
    """What the context of a call, and its indices, let each token see."""
    storage, graph = call.tensor(cache), call.graph
    table = call.int32("page_table", "B", "P")
    pages = table.gather(graph.input("sequence", I32, ("T",)))  # [T, P]
    if call.has("indices"):
        columns = call.int32("indices")
        # what stands behind the first -1 is padding, whatever it is
        seen = (columns < 0).to(I64).running_sum(1).equals(0)
    else:
        lengths = call.int32("lengths", "T")
        columns = graph.positions(graph.input("max_length", I64, ())).unsqueeze(0)
        seen = columns < lengths.unsqueeze(1)
    columns = where(seen, columns, 0)
    size = call.option("page_size")
    slots = pages.gather_elements(columns / size, axis=1) * size + columns % size
    return Visible(storage.gather(slots), seen)
