"""What a chip does differently, as data: read from a vendor's ``simulated.yaml``."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from glm5_hal.conformance.errors import AskedError
from glm5_hal.conformance.simulated.switch import NEVER, Switch

NATIVE, NARROW, REFUSED = "native", "32-bit", "refused"


@dataclass(frozen=True)
class Habits:
    """How torch's ops on the device differ from the host's.

    Attributes:
        flushes_subnormals: operands and results of float arithmetic below 2^-126 are zero.
        float64: ``native``, ``32-bit`` (values hold what float32 does) or ``refused``.
        int64: ``native`` or ``32-bit`` (values hold the low 32 bits, with their sign).
        rounds_products: float32 operands of matrix products lose bits.
        product_bits: explicit bits of the significand that they keep.
        coarse_sums: bfloat16 products are summed in bfloat16 between blocks of the inner dimension.
        rows_change_products: how a product is summed depends on its number of rows.
        unordered_sums: sums run in another order at every call.
        unordered_updates: ``index_add`` and its like add in another order at every call, and of
            several writes to one place any may win.
        unstable_choice: among equals top-k takes any, and sort keeps no order.
        approximate_division: quotients may be the neighbour of the nearest float32.
        approximate_functions: so may results of exp, rsqrt and their like.
        products_need: a variable without which matrix products raise while deterministic
            algorithms are on.
    """

    flushes_subnormals: bool = False
    float64: str = NATIVE
    int64: str = NATIVE
    rounds_products: Switch = NEVER
    product_bits: int = 10
    coarse_sums: Switch = NEVER
    rows_change_products: Switch = NEVER
    unordered_sums: Switch = NEVER
    unordered_updates: Switch = NEVER
    unstable_choice: Switch = NEVER
    approximate_division: Switch = NEVER
    approximate_functions: Switch = NEVER
    products_need: str | None = None

    def __post_init__(self) -> None:
        _among("float64", self.float64, (NATIVE, NARROW, REFUSED))
        _among("int64", self.int64, (NATIVE, NARROW))


@dataclass(frozen=True)
class TritonHabits:
    """How kernels in Triton's language differ from the interpreter's.

    Attributes:
        grid: most programs along x, y and z.
        programs: most programs altogether.
        warps: most warps of a program.
        default_precision: of float32 ``tl.dot`` where the kernel names none.
        precisions: that ``tl.dot`` takes.
        dot_dtypes: of its operands.
        int8_through_float32: integer products are summed in float32.
        flushes_subnormals: as in `Habits`.
        int64: ``native`` or ``32-bit``.
        float64: ``native``, ``32-bit`` or ``refused``.
        approximate_division: ``/`` is inexact.
        approximate_div_rn: so is ``tl.math.div_rn``, whatever its name says.
        approximate_functions: exp, log, rsqrt and the square root that is not ``sqrt_rn``.
        fuses: a product that is added to something is not rounded, unless the launch says
            ``enable_fp_fusion=False``.
        unordered_programs: programs run in another order at every launch.
    """

    grid: tuple[int, int, int] = (2**31 - 1, 65535, 65535)
    programs: int | None = None
    warps: int | None = None
    default_precision: str = "ieee"
    precisions: tuple[str, ...] = ("ieee",)
    dot_dtypes: tuple[str, ...] = ("int8", "float16", "bfloat16", "float32")
    int8_through_float32: bool = False
    flushes_subnormals: bool = False
    int64: str = NATIVE
    float64: str = NATIVE
    approximate_division: bool = False
    approximate_div_rn: bool = False
    approximate_functions: bool = False
    fuses: bool = False
    unordered_programs: bool = False

    def __post_init__(self) -> None:
        _among("float64", self.float64, (NATIVE, NARROW, REFUSED))
        _among("int64", self.int64, (NATIVE, NARROW))
        _among("default_precision", self.default_precision, self.precisions)


@dataclass(frozen=True)
class Profile:
    """A vendor's device.

    Attributes:
        device: torch's name of the device type.
        name: of the chip, as the vendor's module tells it.
        module: the Python module that users import; None where torch itself is the vendor's.
        versions: what the vendor's torch says under ``torch.version``.
        devices: how many there are.
        memory: bytes of each.
        visible: variable that lists the devices to be seen; None where none is known.
        ascending: whether a list that does not ascend shows no device at all.
        flags: dotted path below torch to the default of a setting.
        capability: what ``get_device_capability`` answers.
        properties: of the device, beside its name and memory.
        habits: of torch's ops.
        triton: of kernels.
    """

    device: str
    name: str
    module: str | None = None
    versions: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    devices: int = 2
    memory: int = 4 << 30
    visible: str | None = None
    ascending: bool = False
    flags: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))
    capability: tuple[int, int] | None = None
    properties: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))
    habits: Habits = field(default_factory=Habits)
    triton: TritonHabits = field(default_factory=TritonHabits)


def read_profile(source: str | Path | Traversable) -> Profile:
    """A profile from a YAML file, or of the backend whose folder has this name.

    Raises:
        AskedError: no such file, or keys and values that a profile does not have.
    """
    if isinstance(source, str):
        source = files("glm5_hal.backends").joinpath(source, "simulated.yaml")
    if not source.is_file():
        raise AskedError(f"{source}: no such file; it describes a simulated device")
    try:
        return parse_profile(yaml.safe_load(source.read_text("utf-8")))
    except AskedError as error:
        raise AskedError(f"{source}: {error}") from None


def parse_profile(record: object) -> Profile:
    """A profile from what YAML holds."""
    values = _known(Profile, record)
    for required in ("device", "name"):
        if required not in values:
            raise AskedError(f"{required!r} is missing")
    habits = _known(Habits, values.pop("habits", {}))
    for entry in fields(Habits):
        if entry.type is Switch and entry.name in habits:
            habits[entry.name] = Switch.of(habits[entry.name])
    triton = _known(TritonHabits, values.pop("triton", {}))
    for name in ("grid", "precisions", "dot_dtypes"):
        if name in triton:
            triton[name] = tuple(triton[name])
    for name in ("flags", "properties", "versions"):
        values[name] = MappingProxyType(dict(values.get(name, {})))
    if values.get("capability") is not None:
        values["capability"] = tuple(values["capability"])
    return Profile(**values, habits=Habits(**habits), triton=TritonHabits(**triton))


def _known(record: type, values: object) -> dict[str, Any]:
    """A mapping whose keys are fields of a record, with values of their types."""
    if not isinstance(values, Mapping):
        raise AskedError(f"expected a mapping for {record.__name__}, not {values!r}")
    known = {entry.name: entry for entry in fields(record)}
    for name, value in values.items():
        if name not in known:
            raise AskedError(f"unknown key {name!r}; {record.__name__} has {', '.join(known)}")
        wanted = known[name].type
        if wanted in (str, int, bool) and type(value) is not wanted:
            raise AskedError(f"{name} is {value!r}, expected {wanted.__name__}")
    return dict(values)


def _among(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise AskedError(f"{name} is {value!r}, expected one of {', '.join(known)}")
