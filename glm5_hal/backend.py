"""The backend interface: one page of device handling, one typed method an op.

A backend subclasses `Backend`, says what it is (`name`, `capabilities`, `is_available`), how it
keeps weights and caches, and overrides ops. Names and signatures are checked against the contract
when the class is defined. A primitive that is not overridden raises `Unsupported`; a composite
that is not overridden runs its default.
"""

import difflib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar, NoReturn

import torch
from torch import Tensor

from glm5_hal import env, ops
from glm5_hal.contract import CONTRACT_VERSION, OPS, Kind
from glm5_hal.errors import BackendDefinitionError, SelectionError, Unsupported
from glm5_hal.exact import check_length, digits_of, fixed
from glm5_hal.handles import Cache, PagedContext, RowShard, Weight, WeightRole
from glm5_hal.levels import Level, Numerics
from glm5_hal.settings import Setting


@dataclass(frozen=True)
class Capabilities:
    """What a backend declares; every default is the cautious answer.

    Attributes:
        contract_version: the contract it was written against.
        dtypes: activation dtypes it takes.
        profiles: numeric profiles it has.
        claims: levels it promises per profile, for all of its ops.
        unsupported: optional op to the reason why it is not given.
    """

    contract_version: int = CONTRACT_VERSION
    dtypes: frozenset[torch.dtype] = frozenset({torch.float32})
    profiles: frozenset[Numerics] = frozenset({Numerics.FAST})
    claims: Mapping[Numerics, frozenset[Level]] = field(
        default_factory=lambda: MappingProxyType({})
    )
    unsupported: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    def problems(self) -> list[str]:
        """What is wrong with the record, in sentences; empty when nothing is."""
        found = []
        if self.contract_version != CONTRACT_VERSION:
            found.append(f"contract_version {self.contract_version}, this is {CONTRACT_VERSION}")
        for name, reason in self.unsupported.items():
            if name not in OPS:
                found.append(f"unsupported names {name!r}, which is no op")
            elif OPS[name].kind is not Kind.OPTIONAL:
                found.append(f"{name} is {OPS[name].kind.value}: only optional ops may be declared")
            elif not reason.strip():
                found.append(f"{name} is declared unsupported without a reason")
        if missing := set(self.claims) - self.profiles:
            found.append(f"claims for profiles not offered: {sorted(p.value for p in missing)}")
        return found


class Backend:
    """Base of every backend.

    Args:
        index: which device of its kind, as in ``GLM5_HAL_BACKEND=name:index``.
    """

    name: ClassVar[str]
    capabilities: ClassVar[Capabilities]
    aliases: ClassVar[tuple[str, ...]] = ()
    collectives: ClassVar[str] = "gloo"
    """Name of the torch.distributed backend that moves its tensors between ranks."""
    variables: ClassVar[tuple[env.Variable, ...]] = ()
    """``GLM5_HAL_*`` environment variables that it alone reads, by `glm5_hal.env.read`."""

    def __init__(self, index: int = 0) -> None:
        self.index = index

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        problems = _definition_problems(cls)
        if problems:
            raise BackendDefinitionError(
                f"{cls.__module__}.{cls.__qualname__} does not fit contract "
                f"version {CONTRACT_VERSION}:\n" + "\n".join(f"  - {p}" for p in problems)
            )

    # --- identity and device ---

    @classmethod
    def is_available(cls) -> tuple[bool, str]:
        """Whether it can run here, and why (not). Must not initialise the device."""
        raise NotImplementedError(f"{cls.__name__} does not say whether it is available")

    @classmethod
    def pretend(cls, device_type: str, around: Any) -> None:
        """Be on a simulated device of this type from now on; for simulators alone.

        Args:
            device_type: torch's name of the simulated device, which may not be the chip's own.
            around: the process as it looks beside the chip.

        Raises:
            SelectionError: it has no device that could be simulated.
        """
        raise SelectionError(f"backend {cls.name!r} has no device that can be simulated")

    @classmethod
    def excluded(cls) -> str | None:
        """Why it cannot run here, as far as that is known without importing its modules."""
        return None

    @classmethod
    def imports(cls) -> tuple[str, ...]:
        """Modules of the vendor's that `is_available` imports; some cannot stand side by side."""
        return ()

    @classmethod
    def device_count(cls) -> int:
        """Number of devices that `index` may name."""
        return 1

    @classmethod
    def in_profile(cls, numerics: Numerics) -> "type[Backend]":
        """The class that computes in a profile it offers, of the same name; by default itself."""
        return cls

    @classmethod
    def advice(cls) -> tuple[str, ...]:
        """What would make it better on this machine, in sentences that name the next step."""
        return ()

    @classmethod
    def settings(cls) -> tuple[Setting, ...]:
        """Environment variables and flags that its determinism needs, as they stand."""
        return ()

    @classmethod
    def modes(cls) -> tuple[str, ...]:
        """Ways of computing the same that can be told apart: instruction sets, tile shapes.

        None may change a byte in the exact profile; the suite tries each. The first is the one
        that is used unless `use_mode` says otherwise.
        """
        return ()

    def use_mode(self, mode: str) -> None:
        """Compute in one of `modes` from now on."""
        raise NotImplementedError(f"backend {self.name!r} has modes and no way to choose one")

    @property
    def device(self) -> torch.device:
        """Where its tensors lie."""
        raise NotImplementedError(f"{type(self).__name__} does not name its device")

    @classmethod
    def versions(cls) -> dict[str, str]:
        """Driver, toolkit and library versions that can change a bit; entered into the plan."""
        return {"torch": torch.__version__}

    def to_device(self, tensor: Tensor) -> Tensor:
        """A host tensor on the device."""
        return tensor.to(self.device)

    def to_host(self, tensor: Tensor) -> Tensor:
        """A device tensor on the host; waits for it."""
        return tensor.cpu()

    def synchronize(self) -> None:
        """Wait until everything submitted has finished."""

    def record(self, step: Callable[[], None]) -> Callable[[], None] | None:
        """A cheaper way to run `step` again than calling it; None where there is none.

        The step only submits work: it reads and writes the same tensors each time and asks no
        device tensor for its values. Recording may run it, and never may another bit come of it.
        """
        return None

    # --- what it keeps ---

    def prepare_weight(self, role: WeightRole, tensor: Tensor) -> Weight:
        """Take a host parameter once, at load. The default keeps a copy on the device."""
        return Weight(role, tuple(tensor.shape), tensor.dtype, self.to_device(tensor))

    def prepare_shard(self, tensor: Tensor, start: int, stop: int) -> Weight:
        """Take the columns [start, stop) of a linear weight [N, K] whose others lie elsewhere.

        Raises:
            ContractError: rows longer than the exact profile sums.
        """
        check_length(tensor.shape[1])
        rows = fixed(tensor, digits_of(tensor.dtype))
        columns = self.to_device(tensor[:, start:stop].contiguous())
        shard = RowShard(columns, self.to_device(rows.exponent), self.to_device(rows.finite))
        return Weight(WeightRole.SHARD, tuple(columns.shape), tensor.dtype, shard)

    def allocate_cache(self, pages: int, page_size: int, width: int, dtype: torch.dtype) -> Cache:
        """Storage for pages * page_size rows of `width` values; contents undefined."""
        rows = torch.empty(pages * page_size, width, dtype=dtype, device=self.device)
        return Cache(pages, page_size, width, dtype, rows)

    # --- which ops ---

    @classmethod
    def overrides(cls, op: str) -> bool:
        """Whether the class has an implementation of its own."""
        method = getattr(cls, op)
        return method is not getattr(Backend, op) and not hasattr(method, "not_written")

    def _missing(self, op: str) -> NoReturn:
        reason = self.capabilities.unsupported.get(op, f"not implemented by backend {self.name!r}")
        raise Unsupported(op, reason)

    # --- primitive ops ---

    def embedding(self, ids: Tensor, table: Weight) -> Tensor:
        self._missing("embedding")

    def linear(self, x: Tensor, w: Weight, out_dtype: torch.dtype | None = None) -> Tensor:
        self._missing("linear")

    def head_linear(self, x: Tensor, w: Weight) -> Tensor:
        self._missing("head_linear")

    def rms_norm(
        self, x: Tensor, w: Weight, eps: float, residual: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        self._missing("rms_norm")

    def layer_norm(self, x: Tensor, w: Weight, b: Weight, eps: float) -> Tensor:
        self._missing("layer_norm")

    def rope(self, x: Tensor, positions: Tensor, table: Weight, interleaved: bool) -> Tensor:
        self._missing("rope")

    def swiglu(self, gate_up: Tensor) -> Tensor:
        self._missing("swiglu")

    def cache_write(self, cache: Cache, rows: Tensor, slots: Tensor) -> None:
        self._missing("cache_write")

    def cache_read(self, cache: Cache, slots: Tensor) -> Tensor:
        self._missing("cache_read")

    def latent_attention(
        self,
        q_latent: Tensor,
        q_rope: Tensor,
        cache: Cache,
        context: PagedContext,
        scale: float,
        indices: Tensor | None = None,
    ) -> Tensor:
        self._missing("latent_attention")

    def index_scores(
        self, q: Tensor, w: Tensor, keys: Cache, context: PagedContext, scale: float
    ) -> Tensor:
        self._missing("index_scores")

    def topk(self, scores: Tensor, lengths: Tensor, k: int) -> Tensor:
        self._missing("topk")

    def moe_route(
        self,
        logits: Tensor,
        bias: Weight,
        k: int,
        n_group: int,
        topk_group: int,
        normalize: bool,
        scale: float,
    ) -> tuple[Tensor, Tensor]:
        self._missing("moe_route")

    def moe_dispatch(self, x: Tensor, ids: Tensor, experts: int) -> tuple[Tensor, Tensor, Tensor]:
        self._missing("moe_dispatch")

    def moe_combine(
        self, rows: Tensor, slots: Tensor, weights: Tensor, shared: Tensor | None = None
    ) -> Tensor:
        self._missing("moe_combine")

    def grouped_linear(self, x: Tensor, w: Weight, offsets: Tensor) -> Tensor:
        self._missing("grouped_linear")

    def muon_orthogonalize(self, g: Tensor, steps: int = 5) -> Tensor:
        self._missing("muon_orthogonalize")

    def sample(self, logits: Tensor, temperature: Tensor, top_p: Tensor, draws: Tensor) -> Tensor:
        self._missing("sample")

    # --- composite ops ---

    def mla(
        self,
        q_nope: Tensor,
        q_rope: Tensor,
        cache: Cache,
        context: PagedContext,
        w_uk: Weight,
        w_uv: Weight,
        scale: float,
        indices: Tensor | None = None,
    ) -> Tensor:
        return ops.mla.default(q_nope, q_rope, cache, context, w_uk, w_uv, scale, indices)

    def dsa_select(
        self, q: Tensor, w: Tensor, keys: Cache, context: PagedContext, scale: float, k: int
    ) -> Tensor:
        return ops.dsa_select.default(q, w, keys, context, scale, k)

    def moe_experts(
        self,
        x: Tensor,
        ids: Tensor,
        weights: Tensor,
        w_gate_up: Weight,
        w_down: Weight,
        shared: Tensor | None = None,
    ) -> Tensor:
        return ops.moe_experts.default(x, ids, weights, w_gate_up, w_down, shared)

    # --- optional ops ---

    def mla_expanded(
        self,
        q_nope: Tensor,
        q_rope: Tensor,
        cache: Cache,
        context: PagedContext,
        w_uk: Weight,
        w_uv: Weight,
        scale: float,
        indices: Tensor | None = None,
    ) -> Tensor:
        self._missing("mla_expanded")

    def row_exponents(self, x: Tensor) -> Tensor:
        self._missing("row_exponents")

    def linear_limbs(self, x: Tensor, w: Weight, exponents: Tensor) -> Tensor:
        self._missing("linear_limbs")

    def linear_from_limbs(
        self, limbs: Tensor, exponents: Tensor, w: Weight, out_dtype: torch.dtype
    ) -> Tensor:
        self._missing("linear_from_limbs")


def _definition_problems(cls: type[Backend]) -> list[str]:
    problems = []
    for name in OPS:
        method = inspect.getattr_static(cls, name)
        if method is not vars(Backend)[name]:  # its own, or of a class it is mixed with
            problems += _signature_problems(name, method)
    for attribute in vars(cls):
        if attribute.startswith("_") or attribute in OPS:
            continue
        if not hasattr(Backend, attribute) and attribute not in Backend.__annotations__:
            close = difflib.get_close_matches(attribute, OPS, n=1, cutoff=0.6)
            hint = f"; did you mean {close[0]!r}?" if close else "; prefix helpers with _"
            problems.append(f"{attribute!r} is no op and no method of Backend{hint}")
    for required, kind in (("name", str), ("capabilities", Capabilities)):
        if not isinstance(getattr(cls, required, None), kind):
            problems.append(f"{required} is missing or not a {kind.__name__}")
    problems += _variable_problems(cls)
    if isinstance(getattr(cls, "capabilities", None), Capabilities):
        problems += cls.capabilities.problems()
    return problems


def _variable_problems(cls: type[Backend]) -> list[str]:
    taken = {variable.name for variable in env.VARIABLES}
    declared: tuple[object, ...] = cls.variables
    problems = []
    for variable in declared:
        if not isinstance(variable, env.Variable):
            problems.append(f"variables holds {variable!r}, expected glm5_hal.env.Variable")
            continue
        if not variable.name.startswith(env.PREFIX):
            problems.append(f"variable {variable.name} does not begin with {env.PREFIX}")
        if variable.name in taken:
            problems.append(f"variable {variable.name} has another meaning already")
        taken.add(variable.name)
    return problems


def _signature_problems(name: str, method: object) -> list[str]:
    if not inspect.isfunction(method):
        return [f"{name} is {type(method).__name__}, expected a method"]
    found = list(inspect.signature(method).parameters.values())[1:]
    wanted = list(OPS[name].signature.parameters.values())
    if [(p.name, p.kind, p.default) for p in found] == [
        (p.name, p.kind, p.default) for p in wanted
    ]:
        return []
    return [f"{name} takes {_shown(found)}, the contract says {_shown(wanted)}"]


def _shown(parameters: list[inspect.Parameter]) -> str:
    """Names, kinds and defaults."""
    return str(inspect.Signature([p.replace(annotation=p.empty) for p in parameters]))
