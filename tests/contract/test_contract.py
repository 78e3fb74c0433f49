"""What an op says of itself, and what is checked when it is called and when it answers."""

import inspect
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Any

import pytest
import torch
from torch import Tensor

from glm5_hal import (
    Backend,
    ContractError,
    HalError,
    Numerics,
    PagedContext,
    Runtime,
    WeightRole,
    open_runtime,
    ops,
)
from glm5_hal.backends.cpu.backend import CpuBackend
from glm5_hal.contract import (
    ACT,
    F32,
    FLOAT,
    I32,
    OPS,
    Array,
    Dim,
    Kind,
    Op,
)
from glm5_hal.contract import op as enter_op
from glm5_hal.plan import make_plan

RUNTIME = open_runtime("cpu")


def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.zeros(*shape, dtype=dtype)


def ints(*shape: int) -> Tensor:
    return zeros(*shape, dtype=torch.int32)


def weight(*shape: int, dtype: torch.dtype = torch.float32) -> Any:
    return RUNTIME.prepare_weight(WeightRole.LINEAR, zeros(*shape, dtype=dtype))


# --- dimensions ---


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("T", ("T", 1, "0")),
        ("2*I", ("I", 2, "0")),
        ("E+1", ("E", 1, "1")),
        ("C+R", ("C", 1, "R")),
        ("3*I+2", ("I", 3, "2")),
        ("max_length", ("max_length", 1, "0")),
    ],
)
def test_a_dimension_is_parsed(text: str, parts: tuple[str, int, str]) -> None:
    dim = Dim.parse(text)
    assert (dim.text, dim.name, dim.factor, dim.plus) == (text, *parts)


@pytest.mark.parametrize("text", ["", "2", "I*2", "-T", "T-1", "2*", "T+", "T U", "+1", "T*U"])
def test_another_dimension_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(text))):
        Dim.parse(text)


@pytest.mark.parametrize(
    ("text", "size", "bound", "fits", "after"),
    [
        ("T", 5, {}, True, {"T": 5}),
        ("T", 0, {}, True, {"T": 0}),
        ("T", 5, {"T": 5}, True, {"T": 5}),
        ("T", 6, {"T": 5}, False, {"T": 5}),
        ("2*I", 6, {}, True, {"I": 3}),
        ("2*I", 7, {}, False, {}),
        ("2*I", 8, {"I": 3}, False, {"I": 3}),
        ("E+1", 1, {}, True, {"E": 0}),
        ("E+1", 0, {}, False, {}),
        ("E+1", 9, {"E": 8}, True, {"E": 8}),
        ("E+1", 8, {"E": 8}, False, {"E": 8}),
        ("C+R", 10, {"R": 4}, True, {"R": 4, "C": 6}),
        ("C+R", 3, {"R": 4}, False, {"R": 4}),
        ("C+R", 11, {"R": 4, "C": 6}, False, {"R": 4, "C": 6}),
        ("3*I+2", 8, {}, True, {"I": 2}),
        ("3*I+2", 9, {}, False, {}),
    ],
)
def test_a_dimension_binds_its_symbol(
    text: str, size: int, bound: dict[str, int], fits: bool, after: dict[str, int]
) -> None:
    assert Dim.parse(text).bind(size, bound) is fits
    assert bound == after


# --- calls ---


def context(tokens: int = 2, **changes: Any) -> PagedContext:
    fits = PagedContext(ints(1, 4), ints(tokens), ints(tokens) + 1, 4)
    return replace(fits, **changes)


def cache(width: int, dtype: torch.dtype = torch.float32) -> Any:
    return RUNTIME.allocate_cache(4, 4, width, dtype)


BF16 = torch.bfloat16
Call = Callable[[], object]

BAD_CALLS: dict[str, tuple[Call, str]] = {
    "rank": (
        lambda: ops.linear(zeros(2, 3, 4), weight(5, 4)),
        "linear: x has shape [2, 3, 4], expected [T, K]",
    ),
    "bound size": (
        lambda: ops.linear(zeros(2, 3), weight(5, 4)),
        "linear: w has shape [5, 4], expected [N, K] with N=5, K=3",
    ),
    "dtype": (
        lambda: ops.linear(zeros(2, 3, dtype=torch.float64), weight(5, 3)),
        "linear: x is float64, expected activation dtype (bfloat16 or float32)",
    ),
    "dtype of a weight": (
        lambda: ops.linear(zeros(2, 3), weight(5, 3, dtype=torch.float16)),
        "linear: w is float16, expected bfloat16 or float32",
    ),
    "dtype of ids": (
        lambda: ops.embedding(torch.zeros(2, dtype=torch.int64), weight(5, 3)),
        "embedding: ids is int64, expected int32",
    ),
    "dtype of scores": (
        lambda: ops.topk(zeros(2, 3, dtype=BF16), ints(2), 1),
        "topk: scores is bfloat16, expected float32",
    ),
    "shared dtype": (
        lambda: ops.moe_combine(zeros(2, 3), ints(2), zeros(2, 1), zeros(2, 3, dtype=BF16)),
        "moe_combine: shared is bfloat16, but an earlier argument is float32; all activations of "
        "a call share one dtype",
    ),
    "dtype of a cache": (
        lambda: ops.cache_write(cache(3), zeros(2, 3, dtype=BF16), ints(2)),
        "cache_write: rows is bfloat16, but an earlier argument is float32; all activations of "
        "a call share one dtype",
    ),
    "multiple": (
        lambda: ops.swiglu(zeros(2, 5)),
        "swiglu: gate_up has shape [2, 5], expected [T, 2*I] with T=2",
    ),
    "one more": (
        lambda: ops.grouped_linear(zeros(2, 3), weight(4, 5, 3), ints(4)),
        "grouped_linear: offsets has shape [4], expected [E+1] with E=4",
    ),
    "sum": (
        lambda: ops.latent_attention(zeros(2, 3, 8), zeros(2, 3, 2), cache(9), context(), 1.0),
        "latent_attention: cache has shape [16, 9], expected [slots, C+R] with slots=16, C=8, R=2",
    ),
    "sum, by name": (
        lambda: ops.latent_attention(
            context=context(),
            cache=cache(9),
            scale=1.0,
            q_rope=zeros(2, 3, 2),
            q_latent=zeros(2, 3, 8),
        ),
        "latent_attention: cache has shape [16, 9], expected [slots, C+R] with slots=16, C=8, R=2",
    ),
    "member of a context": (
        lambda: ops.index_scores(
            zeros(2, 3, 4), zeros(2, 3), cache(4), context(lengths=ints(3)), 1.0
        ),
        "index_scores: context.lengths has shape [3], expected [T] with T=2",
    ),
    "dtype of a member": (
        lambda: ops.index_scores(
            zeros(2, 3, 4), zeros(2, 3), cache(4), context(page_table=ints(1, 4).long()), 1.0
        ),
        "index_scores: context.page_table is int64, expected int32",
    ),
    "integer member": (
        lambda: ops.index_scores(
            zeros(2, 3, 4), zeros(2, 3), cache(4), context(max_length=4.0), 1.0
        ),
        "index_scores: context.max_length is 4.0, expected an int",
    ),
    "no context": (
        lambda: ops.index_scores(zeros(2, 3, 4), zeros(2, 3), cache(4), None, 1.0),  # type: ignore[arg-type]
        "index_scores: context.page_table is NoneType, expected a tensor [B, P]",
    ),
    "no tensor": (
        lambda: ops.linear([[1.0]], weight(5, 3)),  # type: ignore[arg-type]
        "linear: x is list, expected a tensor [T, K]",
    ),
    "None where something is needed": (
        lambda: ops.rms_norm(zeros(2, 3), None, 1e-5),  # type: ignore[arg-type]
        "rms_norm: w is NoneType, expected a tensor [D]",
    ),
    "an optional of another shape": (
        lambda: ops.rms_norm(zeros(2, 3), weight(3), 1e-5, zeros(1, 3)),
        "rms_norm: residual has shape [1, 3], expected [T, D] with T=2, D=3",
    ),
    "float for int": (
        lambda: ops.topk(zeros(2, 3), ints(2), 2.0),  # type: ignore[arg-type]
        "topk: k is 2.0, expected an int",
    ),
    "bool for int": (
        lambda: ops.topk(zeros(2, 3), ints(2), True),
        "topk: k is True, expected an int",
    ),
}


@pytest.mark.parametrize("name", BAD_CALLS)
def test_a_bad_call_says_what_is_wrong(name: str) -> None:
    """Op, argument, what it is, what was expected."""
    call, message = BAD_CALLS[name]
    with RUNTIME, pytest.raises(ContractError, match=f"^{re.escape(message)}$"):
        call()


def test_a_contract_error_is_a_value_error_of_this_layer() -> None:
    assert issubclass(ContractError, HalError)
    assert issubclass(ContractError, ValueError)


def test_optional_arguments_may_be_left_out_or_none() -> None:
    with RUNTIME:
        ops.rms_norm(zeros(2, 3), weight(3), 1e-5)
        ops.rms_norm(zeros(2, 3), weight(3), 1e-5, None)
        ops.rms_norm(x=zeros(2, 3), w=weight(3), eps=1e-5, residual=zeros(2, 3))


def test_a_missing_argument_is_named() -> None:
    with RUNTIME, pytest.raises(TypeError, match=r"topk\(\).*'k'"):
        ops.topk(zeros(2, 3), ints(2))  # type: ignore[call-arg]


def test_a_call_without_a_runtime_says_what_to_do() -> None:
    with pytest.raises(HalError, match=r"^linear: no runtime is active\. Open one .*open_runtime"):
        ops.linear(zeros(2, 3), weight(5, 3))
    with RUNTIME:
        ops.linear(zeros(2, 3), weight(5, 3))
    with pytest.raises(HalError, match="no runtime"):
        ops.linear(zeros(2, 3), weight(5, 3))


# --- answers ---


def pair(
    x: Annotated[Tensor, Array("T I", ACT)],
) -> tuple[Annotated[Tensor, Array("T I", ACT)], Annotated[Tensor, Array("T", I32)]]:
    raise AssertionError("never called: an op is made of its signature")


def counted(
    x: Annotated[Tensor, Array("T I", ACT)], k: int
) -> Annotated[Tensor, Array("T k", F32)]:
    raise AssertionError("never called: an op is made of its signature")


ANSWERS: dict[str, tuple[Any, tuple[Any, ...], Any, str]] = {
    "shape": (
        counted,
        (zeros(2, 3), 4),
        zeros(2, 3),
        "counted: result of backend 'stub' has shape [2, 3], expected [T, k] with T=2, k=4",
    ),
    "dtype": (
        counted,
        (zeros(2, 3), 4),
        ints(2, 4),
        "counted: result of backend 'stub' is int32, expected float32",
    ),
    "nothing": (
        counted,
        (zeros(2, 3), 4),
        None,
        "counted: result of backend 'stub' is NoneType, expected a tensor [T, k]",
    ),
    "no tuple": (
        pair,
        (zeros(2, 3),),
        zeros(2, 3),
        "pair: backend 'stub' returned Tensor, expected a tuple of 2",
    ),
    "short tuple": (
        pair,
        (zeros(2, 3),),
        (zeros(2, 3),),
        "pair: backend 'stub' returned tuple, expected a tuple of 2",
    ),
    "part": (
        pair,
        (zeros(2, 3),),
        (zeros(2, 3), ints(3)),
        "pair: result 1 of backend 'stub' has shape [3], expected [T] with T=2",
    ),
    "dtype of the arguments": (
        pair,
        (zeros(2, 3, dtype=BF16),),
        (zeros(2, 3), ints(2)),
        "pair: result 0 of backend 'stub' is float32, but an earlier argument is bfloat16; all "
        "activations of a call share one dtype",
    ),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_a_bad_answer_names_the_backend(name: str) -> None:
    function, args, answer, message = ANSWERS[name]
    made: Op[..., Any] = Op(Kind.PRIMITIVE, {"X-1": "x"}, function)
    dims = made.check_arguments(args, {})
    with pytest.raises(ContractError, match=f"^{re.escape(message)}$"):
        made.check_result(answer, dims, "stub")


def test_good_answers_pass() -> None:
    made: Op[..., Any] = Op(Kind.PRIMITIVE, {"X-1": "x"}, pair)
    args = (zeros(2, 3, dtype=BF16),)
    made.check_result((args[0], ints(2)), made.check_arguments(args, {}), "stub")


def test_the_answers_of_a_real_backend_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    def short(self: Backend, scores: Tensor, lengths: Tensor, k: int) -> Tensor:
        return ints(1, k)

    monkeypatch.setattr(type(RUNTIME.backend), "topk", short)
    runtime = Runtime(RUNTIME.plan, RUNTIME.backend)
    with runtime, pytest.raises(ContractError, match=r"^topk: result of backend 'cpu' has shape"):
        ops.topk(zeros(2, 3), ints(2), 2)


# --- the runtime as a door ---


def test_runtimes_nest() -> None:
    seen: list[str] = []
    inner, outer = (open_runtime("cpu") for _ in range(2))
    inner.observers.append(lambda op, args, kwargs, result: seen.append("inner"))
    outer.observers.append(lambda op, args, kwargs, result: seen.append("outer"))

    def call() -> None:
        ops.swiglu(zeros(1, 2))

    with outer:
        call()
        with inner:
            call()
            with outer:
                call()
            call()
        call()
    assert seen == ["outer", "inner", "outer", "inner", "outer"]


def test_an_error_leaves_the_runtime() -> None:
    with pytest.raises(ContractError), RUNTIME:
        ops.swiglu(zeros(1, 3))
    with pytest.raises(HalError, match="no runtime"):
        ops.swiglu(zeros(1, 2))


def test_one_runtime_in_two_threads() -> None:
    """Each thread leaves what it entered, in whatever order they do."""
    first_in, second_done = threading.Event(), threading.Event()
    errors: list[BaseException] = []

    def first() -> None:
        try:
            with RUNTIME:
                first_in.set()
                second_done.wait(10)
                ops.swiglu(zeros(1, 2))
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=first)
    with RUNTIME:
        thread.start()
        first_in.wait(10)
    second_done.set()
    thread.join()
    assert not errors
    with pytest.raises(HalError, match="no runtime"):
        ops.swiglu(zeros(1, 2))


def test_observers_see_composites_after_their_parts() -> None:
    # a class that leaves composites to their parts
    runtime, seen = Runtime(make_plan(CpuBackend, 0, Numerics.FAST), CpuBackend()), list[str]()
    runtime.observers.append(lambda op, args, kwargs, result: seen.append(op.name))
    experts = [
        runtime.prepare_weight(WeightRole.EXPERTS, zeros(*shape))
        for shape in ((3, 6, 4), (3, 4, 3))
    ]
    with runtime:
        ops.moe_experts(zeros(2, 4), ints(2, 1), zeros(2, 1), *experts)
    assert seen == [
        "moe_dispatch",
        "grouped_linear",
        "swiglu",
        "grouped_linear",
        "moe_combine",
        "moe_experts",
    ]


def test_a_check_that_is_remembered_looks_as_closely() -> None:
    """After calls that passed, one that differs in any part of them is refused still."""
    w = RUNTIME.prepare_weight(WeightRole.LINEAR, zeros(5, 3))
    with RUNTIME:
        for rows in (2, 2, 4):
            assert ops.linear(zeros(rows, 3), w).shape == (rows, 5)
        for bad in (zeros(2, 4), zeros(3), ints(2, 3), zeros(2, 3, dtype=torch.float64), None):
            for _ in range(2):
                with pytest.raises(ContractError, match=r"^linear: [xw] "):
                    ops.linear(bad, w)  # type: ignore[arg-type]
        chosen = ops.topk(zeros(1, 8), ints(1) + 8, 1)
        assert chosen.shape == (1, 1)
        with pytest.raises(ContractError, match="k is True, expected an int"):
            ops.topk(zeros(1, 8), ints(1) + 8, True)


# --- the contract as a whole ---

every_op = pytest.mark.parametrize("op", OPS.values(), ids=OPS)


def test_the_public_names_are_the_ops() -> None:
    assert sorted(OPS) == ops.__all__
    assert all(getattr(ops, name) is op for name, op in OPS.items())


@every_op
def test_every_op_is_documented(op: Op[..., Any]) -> None:
    assert op.__doc__
    assert len(op.__doc__) > 20
    assert op.requirements
    for requirement in op.requirements.values():
        assert requirement.text.strip().endswith(".")
        assert len(requirement.text) > 20


@every_op
def test_requirement_ids_count_from_one_under_one_prefix(op: Op[..., Any]) -> None:
    """Those of the exact profile under the same with -EXACT, after the others."""
    prefix = next(iter(op.requirements)).rpartition("-")[0]
    assert re.fullmatch(r"[A-Z]+(-[A-Z]+)*", prefix)
    plain = [key for key, found in op.requirements.items() if found.profile is op.profile]
    exact = [key for key in op.requirements if key not in plain]
    assert plain == [f"{prefix}-{n + 1}" for n in range(len(plain))]
    assert exact == [f"{prefix}-EXACT-{n + 1}" for n in range(len(exact))]
    assert list(op.requirements) == plain + exact
    assert bool(exact) == (op.exact_rule is not None)
    assert all(key == requirement.id for key, requirement in op.requirements.items())


def test_a_prefix_belongs_to_one_op() -> None:
    prefixes = [next(iter(op.requirements)).rpartition("-")[0] for op in OPS.values()]
    assert len(set(prefixes)) == len(OPS)


@every_op
def test_every_backend_method_has_the_signature_of_its_op(op: Op[..., Any]) -> None:
    method = inspect.signature(getattr(Backend, op.name), eval_str=True)
    found = list(method.parameters.values())[1:]
    wanted = list(op.signature.parameters.values())
    assert [(p.name, p.kind, p.default) for p in found] == [
        (p.name, p.kind, p.default) for p in wanted
    ]


@every_op
def test_only_composites_have_a_default(op: Op[..., Any]) -> None:
    if op.kind is Kind.COMPOSITE:
        ours = inspect.signature(op.default).parameters.values()
        wanted = op.signature.parameters.values()
        assert [(p.name, p.kind, p.default) for p in ours] == [
            (p.name, p.kind, p.default) for p in wanted
        ]
    else:
        with pytest.raises(TypeError, match=op.name):
            _ = op.default
        with pytest.raises(TypeError, match="only a composite"):
            op.composition(op.reference)


@every_op
def test_every_tensor_argument_declares_its_shape(op: Op[..., Any]) -> None:
    plain = {"int", "float", "bool", "torch.dtype", "torch.dtype | None", "PagedContext"}
    for name, parameter in op.signature.parameters.items():
        shown = inspect.formatannotation(parameter.annotation).rpartition("handles.")[2]
        assert name in op.arguments or shown in plain, (name, shown)


def test_a_name_or_an_id_is_taken_once() -> None:
    def topk() -> None: ...

    def fresh() -> None: ...

    before = dict(OPS)
    with pytest.raises(ValueError, match=r"^topk is already in the contract"):
        enter_op(Kind.PRIMITIVE, requirements={"FRESH-1": "x"})(topk)
    with pytest.raises(ValueError, match=r"already in the contract: \['TOPK-1'\]"):
        ops.linear.exact(requirements={"TOPK-1": "x"})
    with pytest.raises(ValueError, match=r"already in the contract: \['TOPK-1'\]"):
        enter_op(Kind.PRIMITIVE, requirements={"TOPK-1": "x"})(fresh)
    assert before == OPS


@dataclass(frozen=True)
class Handle:
    """Anything with a shape and a dtype, as a backend's own handle may be."""

    shape: tuple[int, ...]
    dtype: torch.dtype


def test_a_handle_is_checked_by_shape_and_dtype_alone() -> None:
    def take(w: Annotated[Handle, Array("N K", FLOAT)]) -> None: ...

    made: Op[..., Any] = Op(Kind.PRIMITIVE, {"X-1": "x"}, take)
    assert made.check_arguments((Handle((3, 4), torch.float32),), {}) == {"N": 3, "K": 4}
    with pytest.raises(ContractError, match=r"^take: w has shape \[3\], expected \[N, K\]$"):
        made.check_arguments((Handle((3,), torch.float32),), {})
