"""The CPU standing in for missing ops: on request only, recorded, and with the CPU's bytes."""

from typing import Any

import pytest
import torch
from stub_backends import Bare, Install, Mover, OnDevice
from torch import Tensor

from glm5_hal import (
    Capabilities,
    HalError,
    Numerics,
    PagedContext,
    Runtime,
    SelectionError,
    Unsupported,
    Weight,
    WeightRole,
    open_runtime,
    ops,
)
from glm5_hal.contract import OPS, Kind
from glm5_hal.plan import CACHE_READERS, make_plan

T, D, H, N, R, C, V, K, E = 9, 32, 3, 8, 4, 12, 10, 5, 6
"""Tokens, hidden, heads, widths of a head, latent, values, top-k, experts."""


class Chain:
    """Every op of the contract once, on the runtime's own tensors, weights and caches."""

    def __init__(self, runtime: Runtime, dtype: torch.dtype) -> None:
        self.runtime = runtime
        self.dtype = dtype
        self.generator = torch.Generator().manual_seed(7)
        self.results: dict[str, Any] = {}

    def normal(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        return torch.randn(*shape, generator=self.generator).to(dtype or self.dtype)

    def device(self, tensor: Tensor) -> Tensor:
        return self.runtime.backend.to_device(tensor)

    def ints(self, *values: int) -> Tensor:
        return self.device(torch.tensor(values, dtype=torch.int32))

    def weight(self, role: WeightRole, *shape: int, dtype: torch.dtype | None = None) -> Weight:
        return self.runtime.prepare_weight(role, self.normal(*shape, dtype=dtype))

    def vector(self, width: int) -> Weight:
        return self.weight(WeightRole.VECTOR, width, dtype=torch.float32)

    def linear(self, columns: int, terms: int = D) -> Weight:
        return self.weight(WeightRole.LINEAR, columns, terms)

    def keep(self, name: str, value: Any) -> Any:
        """Record a result as the host sees it."""
        to_host = self.runtime.backend.to_host
        kept = tuple(map(to_host, value)) if isinstance(value, tuple) else to_host(value)
        self.results[name] = kept
        return value

    def run(self) -> dict[str, Any]:
        with self.runtime:
            x = self.before_attention()
            self.attention(x)
            self.mixture(x)
            self.rest(x)
        return self.results

    def before_attention(self) -> Tensor:
        ids = self.ints(*range(0, 2 * T, 2))
        x = self.keep("embedding", ops.embedding(ids, self.weight(WeightRole.EMBEDDING, 20, D)))
        _, h = self.keep("rms_norm", ops.rms_norm(x, self.vector(D), 1e-5, x))
        found: Tensor = ops.layer_norm(h, self.vector(D), self.vector(D), 1e-6)
        self.keep("layer_norm", found)
        return found

    def attention(self, x: Tensor) -> None:
        slots = self.ints(*range(8, 8 + T))
        context = PagedContext(
            self.device(torch.tensor([[2, 3, 4]], dtype=torch.int32)),
            self.ints(*[0] * T),
            self.ints(*range(1, T + 1)),
            T,
        )
        latent, keys = (
            self.runtime.allocate_cache(6, 4, width, self.dtype) for width in (C + R, N)
        )
        assert ops.cache_write(latent, ops.linear(x, self.linear(C + R)), slots) is None
        ops.cache_write(cache=keys, slots=slots, rows=ops.linear(x, self.linear(N)))
        self.keep("cache_read", ops.cache_read(latent, slots))

        angles = torch.rand(20, R // 2, generator=self.generator)
        table = self.runtime.prepare_weight(
            WeightRole.ROPE_TABLE, torch.cat((angles.cos(), angles.sin()), dim=1)
        )
        turned = ops.rope(self.device(self.normal(T, H, R)), slots, table, interleaved=True)
        self.keep("rope", turned)

        q, w = (
            self.device(self.normal(T, H, N)),
            self.device(self.normal(T, H, dtype=torch.float32)),
        )
        scores = self.keep("index_scores", ops.index_scores(q, w, keys, context, 0.3))
        self.keep("topk", ops.topk(scores, context.lengths, K))
        selected = self.keep("dsa_select", ops.dsa_select(q, w, keys, context, 0.3, K))

        w_uk = self.weight(WeightRole.HEAD_LINEAR, H, C, N)
        w_uv = self.weight(WeightRole.HEAD_LINEAR, H, V, C)
        q_latent = self.keep("head_linear", ops.head_linear(q, w_uk))
        self.keep(
            "latent_attention",
            ops.latent_attention(q_latent, turned, latent, context, 0.2, indices=selected),
        )
        self.keep("mla", ops.mla(q, turned, latent, context, w_uk, w_uv, 0.2, selected))

    def mixture(self, x: Tensor) -> None:
        router = self.weight(WeightRole.LINEAR, E, D, dtype=torch.float32)
        logits = self.keep("linear", ops.linear(x, router, out_dtype=torch.float32))
        ids, weights = self.keep(
            "moe_route", ops.moe_route(logits, self.vector(E), 2, 2, 1, True, 2.5)
        )
        up = self.weight(WeightRole.EXPERTS, E, 10, D)
        down = self.weight(WeightRole.EXPERTS, E, D, 5)
        rows, offsets, slots = self.keep("moe_dispatch", ops.moe_dispatch(x, ids, E))
        hidden = self.keep("swiglu", ops.swiglu(ops.grouped_linear(rows, up, offsets)))
        out = self.keep("grouped_linear", ops.grouped_linear(hidden, down, offsets))
        self.keep("moe_combine", ops.moe_combine(out, slots, weights, x))
        self.keep("moe_experts", ops.moe_experts(x, ids, weights, up, down, shared=x))

    def rest(self, x: Tensor) -> None:
        logits = ops.linear(x, self.linear(20), torch.float32)
        heat, limit = (self.device(torch.full((T,), value)) for value in (0.7, 0.9))
        draws = self.ints(*(place * (2**24 // T) for place in range(T)))
        self.keep("sample", ops.sample(logits, heat, limit, draws))
        self.keep("muon_orthogonalize", ops.muon_orthogonalize(self.device(self.normal(2, 4, 6))))


def substituted(cls: Any) -> Runtime:
    return Runtime(make_plan(cls, 0, Numerics.FAST, substitute=True), cls())


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, tuple):
        return all(equal(x, y) for x, y in zip(a, b, strict=True))
    kind = {2: torch.int16, 4: torch.int32}[a.element_size()]
    return a.dtype == b.dtype and torch.equal(a.contiguous().view(kind), b.contiguous().view(kind))


@pytest.mark.parametrize("cls", [Bare, Mover])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_a_chain_of_all_ops_has_the_bytes_of_the_cpu(cls: Any, dtype: torch.dtype) -> None:
    wanted = Chain(open_runtime("cpu"), dtype).run()
    found = Chain(substituted(cls), dtype).run()
    everywhere = {name for name, op in OPS.items() if op.profile is None}
    assert set(wanted) == set(found) == everywhere - {"cache_write", "mla_expanded"}
    for name, value in wanted.items():
        assert equal(found[name], value), name


def test_the_substitute_computes_in_the_profile_of_the_run() -> None:
    class Exact(Bare):
        name = "exact-bare"
        capabilities = Capabilities(profiles=frozenset({Numerics.EXACT}))

    plan = make_plan(Exact, 0, Numerics.EXACT, substitute=True)
    gate_up = torch.linspace(-9.0, 9.0, 130).reshape(1, 130)
    with Runtime(plan, Exact()) as runtime:
        found = runtime.backend.to_host(ops.swiglu(runtime.backend.to_device(gate_up)))
    rule = ops.swiglu.exact_rule
    assert rule is not None
    assert equal(found, rule(gate_up))


def test_results_lie_on_the_device_again() -> None:
    runtime = substituted(Bare)
    x = runtime.backend.to_device(torch.ones(2, 4))
    with runtime:
        assert isinstance(ops.swiglu(x), OnDevice)


def test_without_the_flag_nothing_is_substituted(install: Install) -> None:
    install(bare="stub_backends:Bare")
    runtime = open_runtime("bare")
    assert runtime.plan.substituted == ()
    x = runtime.backend.to_device(torch.ones(2, 4))
    with runtime, pytest.raises(Unsupported, match="swiglu: not supported: not implemented by"):
        ops.swiglu(x)


def test_the_plan_records_what_is_substituted(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(bare="stub_backends:Bare", mover="stub_backends:Mover")
    monkeypatch.setenv("GLM5_HAL_SUBSTITUTE", "cpu")
    primitive = {name for name, op in OPS.items() if op.kind is Kind.PRIMITIVE}
    bare, mover = open_runtime("bare").plan, open_runtime("mover").plan
    assert set(bare.substituted) == primitive
    assert set(mover.substituted) == primitive - {"embedding", "cache_read", "cache_write"}
    assert mover.ops["linear"].source == "substitute"
    assert mover.ops["linear"].where == "cpu"
    assert mover.ops["mla"].source == "default"
    assert mover.ops["mla_expanded"].source == "unsupported"
    assert mover.hash != make_plan(Mover, 0, Numerics.FAST).hash


def test_a_whole_backend_has_nothing_to_substitute(monkeypatch: pytest.MonkeyPatch) -> None:
    before = open_runtime("cpu").plan
    monkeypatch.setenv("GLM5_HAL_SUBSTITUTE", "cpu")
    after = open_runtime("cpu").plan
    assert after.substituted == ()
    assert after.hash == before.hash


@pytest.mark.parametrize("value", ["1", "yes", "CPU", "mover", "cpu:0"])
def test_the_cpu_is_the_only_substitute(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("GLM5_HAL_SUBSTITUTE", value)
    with pytest.raises(SelectionError, match=f"GLM5_HAL_SUBSTITUTE={value}: .* 'cpu'"):
        open_runtime("cpu")


@pytest.mark.parametrize("reader", CACHE_READERS)
def test_cache_write_cannot_be_substituted_under_a_native_reader(reader: str) -> None:
    method = _with_signature(reader)
    cls = type("Reading", (Bare,), {"name": "reading", reader: method})
    make_plan(cls, 0, Numerics.FAST)  # without substitution it is merely unsupported
    with pytest.raises(SelectionError, match=f"cache_write cannot .* {reader} run on the backend"):
        make_plan(cls, 0, Numerics.FAST, substitute=True)
    cls = type("Writing", (cls,), {"name": "writing", "cache_write": Mover.cache_write})
    assert "cache_write" not in make_plan(cls, 0, Numerics.FAST, substitute=True).substituted


def test_every_op_that_reads_a_cache_is_known_to_the_rule() -> None:
    readers = {
        name
        for name, op in OPS.items()
        if {"cache", "keys"} & set(op.signature.parameters) and name != "cache_write"
    }
    assert set(CACHE_READERS) == readers


def test_a_native_write_reaches_the_twin_too() -> None:
    """The backend writes, the CPU attends; the backend's own read sees the same rows."""
    runtime = substituted(Mover)
    to_device, to_host = runtime.backend.to_device, runtime.backend.to_host
    cache = runtime.allocate_cache(2, 4, 3, torch.float32)
    rows, slots = torch.arange(6.0).view(2, 3), torch.tensor([5, 6], dtype=torch.int32)
    one = torch.ones(1, dtype=torch.int32)
    context = PagedContext(to_device(one.view(1, 1)), to_device(one - 1), to_device(one * 3), 3)
    with runtime:
        ops.cache_write(cache, to_device(torch.zeros(1, 3)), to_device(one * 4))
        ops.cache_write(cache, to_device(rows), to_device(slots))
        assert to_host(ops.cache_read(cache, to_device(slots))).tolist() == rows.tolist()
        query = to_device(torch.zeros(1, 1, 2)), to_device(torch.zeros(1, 1, 1))
        seen = to_host(ops.latent_attention(*query, cache, context, 1.0))
    assert seen.tolist() == [[[1.0, pytest.approx(5 / 3)]]]


def test_a_handle_without_a_twin_is_an_error() -> None:
    runtime = substituted(Mover)
    x = runtime.backend.to_device(torch.zeros(1, 4))
    weight = runtime.backend.prepare_weight(WeightRole.LINEAR, torch.zeros(3, 4))
    with runtime, pytest.raises(HalError, match="this weight has no twin on the CPU"):
        ops.linear(x, weight)
    cache = runtime.backend.allocate_cache(1, 1, 4, torch.float32)
    slots = runtime.backend.to_device(torch.zeros(1).int())
    with runtime, pytest.raises(HalError, match="this cache has no twin on the CPU"):
        ops.cache_write(cache, x, slots)


def _with_signature(name: str) -> Any:
    """A method with an op's parameters."""

    def method() -> None: ...

    parameters = list(OPS[name].signature.parameters.values())
    me = parameters[0].replace(name="self", annotation=parameters[0].empty)
    signature = OPS[name].signature.replace(parameters=[me, *parameters])
    method.__signature__ = signature  # type: ignore[attr-defined]
    return method
