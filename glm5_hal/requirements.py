"""Every requirement of the contract: those of each op, and those of all ops and of the model."""

import glm5_hal.ops  # noqa: F401 - fills OPS
from glm5_hal.contract import OPS, Requirement

_GENERAL = {
    "RUN-1": "The same call gives the same bytes again in one process.",
    "RUN-2": "The same call gives the same bytes in a fresh process.",
    "RUN-3": "What freed memory held before (NaN included) reaches no result.",
    "RUN-4": "The address and alignment of the inputs, and strides in front of a contiguous last "
    "dimension, change no byte.",
    "RUN-5": "Other work running on the device at the same time changes no byte.",
    "RUN-6": "The number of threads or streams changes no byte.",
    "GUARD-1": "Inputs are as they were after the call; only cache_write changes a cache, and "
    "only the slots it was given.",
    "GUARD-2": "Every element of a result is written and nothing beyond its ends; results own "
    "memory that no later call overwrites.",
    "GUARD-3": "The op runs where the backend says: no detour over the host or another backend.",
    "GUARD-4": "An exception is raised to the caller; the next call uses the same implementation.",
    "MODEL-1": "Logits of a sequence do not depend on what else is in the batch, nor on its place.",
    "MODEL-2": "Logits do not depend on how the tokens are cut into forward passes.",
    "MODEL-3": "Logits of step-by-step decoding are those of one prefill.",
    "MODEL-4": "Logits do not depend on which pages of the cache hold the rows, nor on what those "
    "pages held before.",
    "MODEL-5": "Generated tokens with multi-token prediction are those without.",
    "MODEL-6": "Logits of the tiny model agree with the references within the derived bound, and "
    "the selected positions and experts are the same wherever the margin allows.",
    "MODEL-7": "Sampled tokens depend on seed, sequence and position and on nothing else.",
}

GENERAL = {key: Requirement(key, text) for key, text in _GENERAL.items()}
"""Requirements of every op (RUN, GUARD) and of the whole model (MODEL)."""

REQUIREMENTS: dict[str, Requirement] = {
    **{key: req for op in OPS.values() for key, req in op.requirements.items()},
    **GENERAL,
}
"""All requirements by id."""


def op_of(requirement: str) -> str | None:
    """Name of the op that a requirement belongs to; None for a general one."""
    return next((op.name for op in OPS.values() if requirement in op.requirements), None)
