"""The shapes that ops are checked at: GLM-5's own, and the edges of tiles.

A shape is a mapping of the contract's symbols. `QUICK` ones run in every quick selection.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files


@dataclass(frozen=True)
class Shape:
    """Sizes by symbol.

    Attributes:
        sizes: symbol to size.
        quick: part of the quick selection.
        real: GLM-5's own width; used with fewer kinds of data.
    """

    sizes: Mapping[str, int]
    quick: bool = False
    real: bool = False

    @property
    def label(self) -> str:
        """As it stands in a case id: ``T33-K512-N96``."""
        return "-".join(f"{symbol}{size}" for symbol, size in self.sizes.items())

    def __getitem__(self, symbol: str) -> int:
        return self.sizes[symbol]


def _quick(**sizes: int) -> Shape:
    return Shape(sizes, quick=True)


def _full(**sizes: int) -> Shape:
    return Shape(sizes)


def _real(**sizes: int) -> Shape:
    return Shape(sizes, real=True)


_WRITTEN: dict[str, tuple[Shape, ...]] = {
    "embedding": (
        _quick(T=33, V=97, D=64),
        _full(T=0, V=7, D=32),
        _full(T=1, V=1, D=1),
        _real(T=9, V=4096, D=6144),
    ),
    "linear": (
        _quick(T=33, K=512, N=96),
        _quick(T=1, K=129, N=7),
        _full(T=0, K=64, N=32),
        _full(T=31, K=1024, N=65),
        _full(T=65, K=255, N=128),
        _full(T=130, K=1, N=64),
        _real(T=3, K=6144, N=2048),
        _real(T=3, K=2048, N=4096),
        _real(T=3, K=16384, N=512),
        _real(T=34, K=6144, N=576),
        _real(T=2, K=6144, N=32),
    ),
    "head_linear": (
        _quick(T=33, H=4, K=24, N=32),
        _full(T=1, H=1, K=1, N=3),
        _full(T=0, H=2, K=8, N=8),
        _full(T=65, H=3, K=33, N=17),
        _real(T=3, H=64, K=192, N=512),
        _real(T=3, H=64, K=512, N=256),
    ),
    "rms_norm": (
        _quick(T=33, D=128),
        _full(T=0, D=64),
        _full(T=1, D=1),
        _full(T=65, D=257),
        _real(T=5, D=6144),
        _real(T=5, D=512),
    ),
    "layer_norm": (
        _quick(T=33, D=128),
        _full(T=0, D=16),
        _full(T=1, D=2),
        _full(T=65, D=129),
    ),
    "rope": (
        _quick(T=33, H=3, R=8, P=512),
        _full(T=0, H=2, R=8, P=16),
        _full(T=1, H=1, R=2, P=4),
        _real(T=9, H=64, R=64, P=202752),
    ),
    "swiglu": (
        _quick(T=33, I=65),
        _full(T=0, I=8),
        _full(T=1, I=1),
        _real(T=5, I=2048),
        _real(T=3, I=12288),
    ),
    "cache_write": (
        _quick(T=9, W=40, pages=5, page=16),
        _full(T=0, W=8, pages=2, page=4),
        _real(T=70, W=576, pages=6, page=64),
    ),
    "cache_read": (
        _quick(N=9, W=40, pages=5, page=16),
        _full(N=0, W=8, pages=2, page=4),
        _real(N=70, W=576, pages=6, page=64),
    ),
    "latent_attention": (
        _quick(T=9, H=4, C=32, R=8, S=70, k=0, page=16),
        _quick(T=9, H=4, C=32, R=8, S=300, k=33, page=64),
        _full(T=1, H=1, C=8, R=2, S=1, k=0, page=4),
        _full(T=17, H=3, C=16, R=4, S=129, k=16, page=16),
        _full(T=5, H=2, C=32, R=8, S=257, k=0, page=64),
        _real(T=3, H=64, C=512, R=64, S=2300, k=2048, page=64),
    ),
    "mla": (
        _quick(T=9, H=4, N=24, R=8, C=32, V=16, S=90, k=33, page=16),
        _full(T=9, H=4, N=24, R=8, C=32, V=16, S=90, k=0, page=16),
        _real(T=3, H=16, N=192, R=64, C=512, V=256, S=700, k=256, page=64),
    ),
    "mla_expanded": (
        _quick(T=9, H=4, N=24, R=8, C=32, V=16, S=90, k=33, page=16),
        _full(T=9, H=4, N=24, R=8, C=32, V=16, S=90, k=0, page=16),
    ),
    "index_scores": (
        _quick(T=9, H=8, D=16, S=70, page=16),
        _full(T=1, H=1, D=4, S=1, page=4),
        _full(T=17, H=4, D=16, S=513, page=64),
        _real(T=3, H=32, D=128, S=2100, page=64),
    ),
    "topk": (
        _quick(T=9, S=300, k=33),
        _quick(T=5, S=20, k=33),
        _full(T=3, S=1, k=1),
        _full(T=3, S=64, k=64),
        _full(T=3, S=65, k=64),
        _full(T=4, S=4097, k=2048),
        _real(T=3, S=131072, k=2048),
        _real(T=2, S=202752, k=2048),
    ),
    "dsa_select": (
        _quick(T=9, H=8, D=16, S=90, k=33, page=16),
        _full(T=9, H=8, D=16, S=20, k=33, page=16),
        _real(T=3, H=32, D=128, S=2300, k=2048, page=64),
    ),
    "moe_route": (
        _quick(T=33, E=16, k=4, n_group=1, topk_group=1),
        _quick(T=33, E=16, k=4, n_group=4, topk_group=2),
        _full(T=0, E=8, k=2, n_group=1, topk_group=1),
        _full(T=5, E=8, k=8, n_group=1, topk_group=1),
        _real(T=65, E=256, k=8, n_group=1, topk_group=1),
        _real(T=17, E=256, k=8, n_group=8, topk_group=4),
    ),
    "moe_dispatch": (
        _quick(T=33, D=64, E=16, k=4),
        _full(T=0, D=8, E=4, k=2),
        _full(T=1, D=8, E=1, k=1),
        _real(T=65, D=6144, E=256, k=8),
    ),
    "moe_combine": (
        _quick(T=33, D=64, k=4),
        _full(T=1, D=8, k=1),
        _real(T=9, D=6144, k=8),
    ),
    "grouped_linear": (
        _quick(P=70, K=64, N=48, E=8),
        _full(P=0, K=8, N=8, E=4),
        _full(P=65, K=129, N=33, E=5),
        _real(P=24, K=6144, N=512, E=8),
        _real(P=24, K=2048, N=768, E=8),
    ),
    "moe_experts": (
        _quick(T=33, D=64, I=32, E=8, k=2),
        _full(T=1, D=64, I=32, E=8, k=2),
        _real(T=5, D=1024, I=256, E=16, k=8),
    ),
    "muon_orthogonalize": (
        _quick(B=3, m=16, n=40),
        _quick(B=2, m=40, n=16),
        _full(B=1, m=1, n=1),
        _full(B=2, m=33, n=33),
        _real(B=2, m=192, n=512),
        _real(B=1, m=256, n=1024),
    ),
    "sample": (
        _quick(T=17, V=97),
        _full(T=1, V=1),
        _real(T=3, V=154880),
    ),
    "row_exponents": (
        _quick(T=33, K=65),
        _full(T=3, K=0),
        _full(T=0, K=8),
        _real(T=3, K=2048),
    ),
    "linear_limbs": (
        _quick(T=33, K=65, N=48),
        _full(T=3, K=0, N=16),
        _full(T=0, K=8, N=16),
        _real(T=3, K=2048, N=512),
    ),
    "linear_from_limbs": (
        _quick(T=33, K=65, N=48),
        _full(T=3, K=0, N=16),
        _full(T=0, K=8, N=16),
        _real(T=3, K=2048, N=512),
    ),
}


def symbols(op: str) -> tuple[str, ...]:
    """The symbols of an op's shapes, in order."""
    return tuple(_WRITTEN[op][0].sizes)


def recorded() -> dict[str, list[Shape]]:
    """Shapes recorded from models (`record.Recorder`), by op; incomplete ones are no cases."""
    found: dict[str, list[Shape]] = {}
    folder = files("glm5_hal.conformance.recorded")
    for file in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if file.name.endswith(".json"):
            for op, rows in json.loads(file.read_text()).items():
                for sizes in rows:
                    shape = Shape({symbol: sizes[symbol] for symbol in symbols(op)}, real=True)
                    if shape.label not in {known.label for known in _WRITTEN[op]}:
                        found.setdefault(op, []).append(shape)
    return found


SHAPES: dict[str, tuple[Shape, ...]] = {
    op: (*written, *recorded().get(op, [])) for op, written in _WRITTEN.items()
}
"""Shapes of each op. ``S`` is the longest cached sequence, ``k`` = 0 means no selection."""
