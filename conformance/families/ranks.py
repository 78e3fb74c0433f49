"""Several ranks: the bytes of one, however many there are."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from glm5_hal import Runtime
from glm5_hal.conformance import data
from glm5_hal.conformance.case import Case, Check, Evidence
from glm5_hal.conformance.families.judging import in_exact, raw_digests, same_bytes
from glm5_hal.conformance.families.whole_model import DTYPES, DTypeName, in_quick
from glm5_hal.levels import Level
from glm5_hal.model.config import ModelConfig
from glm5_hal.model.generate import sequence_logits
from glm5_hal.model.load import load_model
from glm5_hal.model.make_checkpoint import make_checkpoint
from glm5_hal.model.ranks import ALONE, Ranks, Threads

SIZES = (2, 3, 4, 8)
"""Tiny has four heads, sixteen experts: three ranks hold unequal shares, four of eight no head."""

_LENGTHS = (12, 3)


def cases() -> Iterator[Case]:
    """The tiny model on several ranks, as threads on one device."""
    for dtype in DTYPES:
        for size in SIZES:
            case = Case(
                id=f"EXACT-RANKS-1/invariance-{size}-ranks/tiny/{dtype}",
                requirement="EXACT-RANKS-1",
                op="model",
                aspect=Level.RANK_INVARIANT.value,
                relation="invariance",
                check=_on_ranks(size, dtype),
                quick=size == 3 and in_quick("EXACT-RANKS-1", dtype),
            )
            yield in_exact(case)


def _on_ranks(size: int, dtype: DTypeName) -> Check:
    def check(runtime: Runtime) -> Evidence:
        with tempfile.TemporaryDirectory() as parent:
            directory = Path(parent) / "tiny"
            make_checkpoint(ModelConfig.load("tiny"), directory, seed=data.SEED, dtype=dtype)

            def logits(ranks: Ranks) -> list[Tensor]:
                model = load_model(directory, runtime, mtp=False, ranks=ranks)
                return sequence_logits(model, _prompts(model.config.vocab_size))

            alone = tuple(logits(ALONE))
            for rank, found in enumerate(Threads(size).run(logits)):
                same_bytes(
                    alone,
                    tuple(found),
                    message="other logits",
                    change=f"{size} ranks, on rank {rank}",
                    hint="a row's exponent is not the maximum over ranks, or a sum is rounded "
                    "before all ranks have added theirs",
                )
        return Evidence(raw_digests(alone))

    return check


def _prompts(vocabulary: int) -> list[list[int]]:
    return [
        data.integers(f"ranks/prompt{row}", (length,), 0, vocabulary).tolist()
        for row, length in enumerate(_LENGTHS)
    ]
