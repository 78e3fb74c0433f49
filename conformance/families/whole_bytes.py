"""The tiny model in the exact profile: the recorded bytes, on any chip."""

from collections.abc import Iterator

import torch
from torch import Tensor

from glm5_hal import Runtime
from glm5_hal.conformance.case import Case, Check, Evidence
from glm5_hal.conformance.families.judging import in_exact, raw_digests, same_bytes
from glm5_hal.conformance.families.whole_model import (
    BISECT,
    DTYPES,
    DTypeName,
    generated,
    in_quick,
    model_of,
    prompts_of,
    shared,
)
from glm5_hal.conformance.reference_backend import reference_runtime
from glm5_hal.levels import Level, Numerics
from glm5_hal.model.generate import Sampling, sequence_logits

_SAMPLED = Sampling(0.9, 0.95, seed=1)


def cases() -> Iterator[Case]:
    """Logits and sampled tokens, in both activation dtypes."""
    for dtype in DTYPES:
        case = Case(
            id=f"EXACT-BYTES-1/parity-bytes/tiny/{dtype}",
            requirement="EXACT-BYTES-1",
            op="model",
            aspect=Level.CROSS_BACKEND.value,
            relation="parity",
            check=_recorded(dtype),
            quick=in_quick("EXACT-BYTES-1", dtype),
            shares=shared(dtype),
        )
        yield in_exact(case)


def _recorded(dtype: DTypeName) -> Check:
    def check(runtime: Runtime) -> Evidence:
        found = _outputs(runtime, dtype)

        def explain() -> None:
            expected = _outputs(reference_runtime(Numerics.EXACT), dtype)
            message = "not the bytes of the definitions"
            same_bytes(expected, found, message=message, hint=BISECT, any_nan=False)

        return Evidence(raw_digests(found), explain=explain)

    return check


def _outputs(runtime: Runtime, dtype: DTypeName) -> tuple[Tensor, ...]:
    """Logits of each sequence, then the tokens sampled after all of them."""
    model = model_of(runtime, dtype)
    tokens = generated(model, prompts_of(model), _SAMPLED, 0)
    logits = sequence_logits(model, prompts_of(model))
    return (*logits, torch.tensor(tokens, dtype=torch.int32))
