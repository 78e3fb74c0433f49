"""The fast profile's kernels, interpreted: close to the oracle, and a row's bits are its own."""

import pytest
import torch

from glm5_hal.backends.torch_triton.backend import missing_triton

if missing := missing_triton():
    pytest.skip(missing, allow_module_level=True)
from interpreted import runtime

from glm5_hal import Numerics
from glm5_hal.conformance import bounds
from glm5_hal.conformance.call import answer
from glm5_hal.conformance.compare import first_difference
from glm5_hal.conformance.subjects import Variant, variants

pytestmark = [  # of the interpreter's arrays: NaN, and one-element arrays as numbers
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

BOUNDED = (
    *("linear", "head_linear", "grouped_linear", "rms_norm", "layer_norm", "rope", "swiglu"),
    *("moe_combine", "index_scores", "latent_attention", "muon_orthogonalize"),
)
ROWWISE = (
    *("linear", "head_linear", "rms_norm", "layer_norm", "rope", "swiglu"),
    *("index_scores", "latent_attention", "dsa_select", "moe_route"),
)


@pytest.mark.parametrize(
    "variant",
    [v for op in BOUNDED for v in variants(op, quick_only=True)],
    ids=lambda v: f"{v.op}-{v.label}",
)
def test_fast_kernels_stay_within_the_bounds(variant: Variant) -> None:
    call = variant.call()
    exact, bound = bounds.of(call)
    for wanted, allowed, found in zip(exact, bound, answer(_fast(), call), strict=True):
        near = (found.double() - wanted).abs() <= allowed
        assert bool((near | (found == wanted)).all())  # -Inf is equal to itself


@pytest.mark.parametrize(
    "variant",
    [v for op in ROWWISE for v in variants(op, quick_only=True, smallest_tokens=3)],
    ids=lambda v: f"{v.op}-{v.label}",
)
def test_fast_rows_do_not_see_their_neighbours(variant: Variant) -> None:
    call = variant.call()
    together = answer(_fast(), call)
    for token in (0, call.tokens - 1):
        alone = answer(_fast(), call.take(torch.tensor([token])))
        mine = tuple(part[token : token + 1] for part in together)
        assert first_difference(mine, alone) is None, token


def _fast():  # type: ignore[no-untyped-def]
    return runtime(Numerics.FAST)
