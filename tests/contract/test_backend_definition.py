"""A backend class is checked when it is defined; an instance answers or says why it does not."""

from types import MappingProxyType
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from glm5_hal import (
    CONTRACT_VERSION,
    Backend,
    BackendDefinitionError,
    Cache,
    Capabilities,
    HalError,
    Level,
    Numerics,
    PagedContext,
    Runtime,
    Unsupported,
    Weight,
    WeightRole,
    env,
    ops,
)
from glm5_hal.contract import OPS, Kind
from glm5_hal.plan import make_plan

FINE = Capabilities()


def problems(bases: tuple[type, ...] = (Backend,), **body: Any) -> list[str]:
    """What is wrong with a class of this body, empty when it can be defined."""
    body = {"name": "stub", "capabilities": FINE, **body}
    body = {key: value for key, value in body.items() if value is not None}
    try:
        type("Stub", bases, body)
    except BackendDefinitionError as error:
        head, *lines = str(error).splitlines()
        assert head.endswith(f"Stub does not fit contract version {CONTRACT_VERSION}:")
        assert all(line.startswith("  - ") for line in lines)
        return [line.removeprefix("  - ") for line in lines]
    return []


def topk(self: Backend, scores: Tensor, lengths: Tensor, k: int) -> Tensor:
    return torch.full((scores.shape[0], k), -1, dtype=torch.int32)


def test_a_fitting_class_is_fine() -> None:
    assert problems() == []
    assert problems(topk=topk) == []


def test_variables_are_described_and_its_own() -> None:
    def variable(name: str) -> env.Variable:
        return env.Variable(name, "1", "off", "Something.")

    own = variable("GLM5_HAL_STUB")
    assert problems(variables=(own,)) == []
    assert problems(variables=(own, own)) == ["variable GLM5_HAL_STUB has another meaning already"]
    assert problems(variables=(variable("GLM5_HAL_MODE"), variable("STUB"))) == [
        "variable GLM5_HAL_MODE has another meaning already",
        "variable STUB does not begin with GLM5_HAL_",
    ]
    assert problems(variables=("GLM5_HAL_STUB",)) == [
        "variables holds 'GLM5_HAL_STUB', expected glm5_hal.env.Variable"
    ]


def test_an_unknown_name_is_corrected() -> None:
    assert problems(top_k=topk) == [
        "'top_k' is no op and no method of Backend; did you mean 'topk'?"
    ]
    assert problems(lineer=topk) == [
        "'lineer' is no op and no method of Backend; did you mean 'linear'?"
    ]
    assert problems(zzz=topk) == ["'zzz' is no op and no method of Backend; prefix helpers with _"]


def test_helpers_begin_with_an_underscore() -> None:
    assert problems(_tile=topk, _WIDTH=3, __doc__="x") == []


def test_methods_and_attributes_of_the_base_may_be_overridden() -> None:
    body = {name: getattr(Backend, name) for name in ("to_host", "synchronize", "versions")}
    assert problems(**body, aliases=("other",)) == []


def test_parameters_are_those_of_the_contract() -> None:
    says = "the contract says (scores, lengths, k)"

    def renamed(self: Backend, scores: Tensor, length: Tensor, k: int) -> None: ...
    def swapped(self: Backend, lengths: Tensor, scores: Tensor, k: int) -> None: ...
    def more(self: Backend, scores: Tensor, lengths: Tensor, k: int, fast: bool = True) -> None: ...
    def fewer(self: Backend, scores: Tensor, lengths: Tensor) -> None: ...
    def default(self: Backend, scores: Tensor, lengths: Tensor, k: int = 8) -> None: ...
    def keyword(self: Backend, scores: Tensor, lengths: Tensor, *, k: int) -> None: ...
    def anything(self: Backend, *args: Any, **kwargs: Any) -> None: ...

    for method, shown in (
        (renamed, "(scores, length, k)"),
        (swapped, "(lengths, scores, k)"),
        (more, "(scores, lengths, k, fast=True)"),
        (fewer, "(scores, lengths)"),
        (default, "(scores, lengths, k=8)"),
        (keyword, "(scores, lengths, *, k)"),
        (anything, "(*args, **kwargs)"),
    ):
        assert problems(topk=method) == [f"topk takes {shown}, {says}"]


def test_a_missing_default_is_seen() -> None:
    def linear(self: Backend, x: Tensor, w: Weight, out_dtype: torch.dtype) -> None: ...

    assert problems(linear=linear) == [
        "linear takes (x, w, out_dtype), the contract says (x, w, out_dtype=None)"
    ]


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (3, "int"),
        (staticmethod(topk), "staticmethod"),
        (classmethod(lambda cls: None), "classmethod"),
    ],
)
def test_an_op_is_a_method(value: object, kind: str) -> None:
    assert problems(topk=value) == [f"topk is {kind}, expected a method"]


def test_name_and_capabilities_are_needed() -> None:
    assert problems(name=None) == ["name is missing or not a str"]
    assert problems(capabilities=None) == ["capabilities is missing or not a Capabilities"]
    assert problems(name=3, capabilities={}) == [
        "name is missing or not a str",
        "capabilities is missing or not a Capabilities",
    ]


@pytest.mark.parametrize(
    ("capabilities", "problem"),
    [
        (Capabilities(contract_version=99), f"contract_version 99, this is {CONTRACT_VERSION}"),
        (
            Capabilities(unsupported={"topkk": "no"}),
            "unsupported names 'topkk', which is no op",
        ),
        (
            Capabilities(unsupported={"linear": "no"}),
            "linear is primitive: only optional ops may be declared",
        ),
        (
            Capabilities(unsupported={"mla": "no"}),
            "mla is composite: only optional ops may be declared",
        ),
        (
            Capabilities(unsupported={"mla_expanded": " "}),
            "mla_expanded is declared unsupported without a reason",
        ),
        (
            Capabilities(claims={Numerics.EXACT: frozenset({Level.RUN_TO_RUN})}),
            "claims for profiles not offered: ['exact']",
        ),
    ],
)
def test_capabilities_are_checked(capabilities: Capabilities, problem: str) -> None:
    assert problems(capabilities=capabilities) == [problem]


def test_everything_wrong_is_said_at_once() -> None:
    def linear(self: Backend, x: Tensor) -> None: ...

    bad = Capabilities(contract_version=0, unsupported={"nothing": "x", "topk": "x"})
    found = problems(name=None, capabilities=bad, linear=linear, topk=1, tokp=topk, rope=None)
    assert len(found) == 7
    words = ["linear", "topk", "'tokp'", "name", "contract_version", "unsupported", "topk"]
    assert sorted(line.split()[0] for line in found) == sorted(words)


def test_the_error_is_a_type_error_of_this_layer() -> None:
    assert issubclass(BackendDefinitionError, TypeError)
    assert issubclass(BackendDefinitionError, HalError)


def test_a_capabilities_record_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        FINE.dtypes = frozenset()  # type: ignore[misc]
    with pytest.raises(TypeError):
        FINE.unsupported["mla_expanded"] = "x"  # type: ignore[index]


# --- what instances answer ---


class Middle(Backend):
    """A backend of its own that another one builds on; it has no fused anything."""

    name = "middle"
    capabilities = Capabilities(
        unsupported=MappingProxyType({"mla_expanded": "keys and values per head do not fit"})
    )

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def topk(self, scores: Tensor, lengths: Tensor, k: int) -> Tensor:
        return ops.topk.reference(scores, lengths, k)

    def index_scores(
        self, q: Tensor, w: Tensor, keys: Cache, context: PagedContext, scale: float
    ) -> Tensor:
        return self._scores(q, w, keys, context, scale)

    def _scores(self, *args: Any) -> Tensor:
        return ops.index_scores.reference(*args)


class Upper(Middle):
    name = "upper"

    def _scores(self, *args: Any) -> Tensor:
        return -super()._scores(*args)

    def swiglu(self, gate_up: Tensor) -> Tensor:
        return ops.swiglu.reference(gate_up)


def test_a_backend_may_build_on_another() -> None:
    assert {name for name in OPS if Upper.overrides(name)} == {"index_scores", "swiglu", "topk"}
    assert {name for name in OPS if Middle.overrides(name)} == {"index_scores", "topk"}
    assert problems((Upper,)) == []
    assert problems((Upper,), linear=3) == ["linear is int, expected a method"]


def test_a_mixed_in_op_is_an_op() -> None:
    class Good:
        topk = topk
        public = 3

    class Bad:
        def topk(self, scores: Tensor) -> None: ...

    class Mixed(Good, Backend):
        name = "mixed"
        capabilities = FINE

    assert Mixed.overrides("topk")
    assert problems((Bad, Backend)) == [
        "topk takes (scores), the contract says (scores, lengths, k)"
    ]
    assert problems((Middle, Bad)) == []  # Middle's own topk comes first


def runtime(cls: type[Backend]) -> Runtime:
    return Runtime(make_plan(cls, 0, Numerics.FAST), cls())


def test_a_primitive_that_is_not_given_is_unsupported() -> None:
    weight = Weight(WeightRole.LINEAR, (2, 3), torch.float32, torch.zeros(2, 3))
    with runtime(Middle), pytest.raises(Unsupported) as caught:
        ops.linear(torch.zeros(1, 3), weight)
    assert caught.value.op == "linear"
    assert str(caught.value) == "linear: not supported: not implemented by backend 'middle'"


@pytest.mark.parametrize(
    "op", [op for op in OPS.values() if op.kind is Kind.PRIMITIVE], ids=lambda op: op.name
)
def test_every_primitive_says_which_op_and_which_backend(op: Any) -> None:
    class Bare(Backend):
        name = "bare"
        capabilities = FINE

    nothing = [None] * len(op.signature.parameters)
    with pytest.raises(Unsupported, match=rf"^{op.name}: .*'bare'$"):
        getattr(Bare(), op.name)(*nothing)


def test_an_optional_op_is_unsupported_for_the_declared_reason() -> None:
    for cls in (Middle, Upper):
        with pytest.raises(Unsupported) as caught:
            cls().mla_expanded(*[None] * 7)  # type: ignore[arg-type]
        assert caught.value.reason == "keys and values per head do not fit"
        assert make_plan(cls, 0, Numerics.FAST).ops["mla_expanded"].where == caught.value.reason


def test_a_composite_that_is_not_given_runs_its_default() -> None:
    backend = Upper()
    keys = Cache(1, 4, 2, torch.float32, torch.tensor([[1.0, 0], [2, 0], [3, 0], [4, 0]]))
    one = torch.ones(1, dtype=torch.int32)
    context = PagedContext(torch.zeros(1, 1, dtype=torch.int32), one - 1, one * 4, 4)
    q, w = torch.ones(1, 1, 2), torch.ones(1, 1)
    with runtime(Middle):
        assert ops.dsa_select(q, w, keys, context, 1.0, 2).tolist() == [[2, 3]]
    with Runtime(make_plan(Upper, 0, Numerics.FAST), backend):
        assert ops.dsa_select(q, w, keys, context, 1.0, 2).tolist() == [[0, 1]]
        # and so when it is asked directly
        assert backend.dsa_select(q, w, keys, context, 1.0, 2).tolist() == [[0, 1]]


def test_the_base_says_what_a_backend_must_say() -> None:
    class Silent(Backend):
        name = "silent"
        capabilities: ClassVar[Capabilities] = FINE

    with pytest.raises(NotImplementedError, match="Silent does not say whether it is available"):
        Silent.is_available()
    with pytest.raises(NotImplementedError, match="Silent does not name its device"):
        _ = Silent().device
    assert Silent.device_count() == 1
    assert Silent.versions() == {"torch": torch.__version__}


def test_defaults_of_the_base_keep_weights_and_caches_on_the_device() -> None:
    backend = Middle(index=3)
    assert backend.index == 3
    tensor = torch.arange(6.0).view(2, 3)
    weight = backend.prepare_weight(WeightRole.LINEAR, tensor)
    assert (weight.role, weight.shape, weight.dtype) == (WeightRole.LINEAR, (2, 3), torch.float32)
    assert torch.equal(weight.tensor, tensor)
    cache = backend.allocate_cache(3, 4, 5, torch.bfloat16)
    assert (cache.shape, cache.dtype, cache.tensor.shape) == ((12, 5), torch.bfloat16, (12, 5))
    backend.synchronize()


def test_an_opaque_handle_says_what_it_is_kept_as() -> None:
    weight = Weight(WeightRole.VECTOR, (3,), torch.float32, {"rows": 3})
    with pytest.raises(TypeError, match="this vector weight is kept as dict"):
        _ = weight.tensor
    with pytest.raises(TypeError, match="this cache is kept as list"):
        _ = Cache(1, 1, 1, torch.float32, []).tensor
