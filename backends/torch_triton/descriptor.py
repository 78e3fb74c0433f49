"""What a chip's backend.yaml says: identity, detection, environment, tiles.

`backend.schema.json` beside this file is the same in JSON Schema, for editors and for vendors.
"""

from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from importlib.resources import files
from types import MappingProxyType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import yaml

from glm5_hal.backends.torch_triton.surroundings import Surroundings
from glm5_hal.errors import BackendDefinitionError
from glm5_hal.settings import Setting, State

D = TypeVar("D", bound="Description")


@dataclass(frozen=True)
class Rule:
    """One condition for the chip to be this vendor's.

    Attributes:
        fact: ``module NAME`` or an attribute's path, such as ``torch.version.hip``.
        present: whether it must be there.
        otherwise: what is said where it is not so; ``{value}`` is what was found.
    """

    fact: str
    present: bool
    otherwise: str

    def broken(self, around: Surroundings) -> str | None:
        """What is wrong, None if nothing is."""
        kind, _, name = self.fact.rpartition(" ")
        value = around.installed(name) if kind == "module" else around.attribute(name)
        found = value is not None and value is not False
        return None if found is self.present else self.otherwise.format(value=value)


@dataclass(frozen=True)
class Variable:
    """An environment variable that must hold one of some values.

    Attributes:
        variable: its name.
        accepts: the values, the one to use first.
        before: what reads it: ``device``, the first use of the device, or a module's name.
        why: what it does.
    """

    variable: str
    accepts: tuple[str, ...]
    before: str
    why: str

    def look(self, around: Surroundings, initialized: bool) -> Setting:
        """How it stands."""
        found = around.environment.get(self.variable)
        late = initialized if self.before == "device" else around.imported(self.before)
        if found is None:
            state = State.LATE if late else State.PENDING
        else:
            state = State.GOOD if found in self.accepts else State.WRONG
        wanted = " or ".join(self.accepts)
        fix = f"export {self.variable}={self.accepts[0]}"
        return Setting(self.variable, wanted, found, state, self.why, fix)


@dataclass(frozen=True)
class Flag:
    """A flag of torch, or of the vendor's module, that the backend sets when it is opened.

    Attributes:
        flag: its path, beginning with ``torch.``.
        value: what it must be.
        why: what it does.
    """

    flag: str
    value: bool | int | str
    why: str

    def look(self, around: Surroundings) -> Setting:
        """How it stands."""
        found = around.attribute(self.flag)
        state = State.GOOD if found == self.value else State.PENDING
        shown = None if found is None else str(found)
        fix = f"{self.flag} = {self.value!r}"
        return Setting(self.flag, str(self.value), shown, state, self.why, fix)


@dataclass(frozen=True)
class Absent:
    """An environment variable that must not be set.

    Attributes:
        variable: its name.
        why: what it would do.
    """

    variable: str
    why: str

    def look(self, around: Surroundings) -> Setting:
        """How it stands."""
        found = around.environment.get(self.variable)
        state = State.GOOD if found is None else State.WRONG
        return Setting(self.variable, "not set", found, state, self.why, f"unset {self.variable}")


@dataclass(frozen=True)
class Visible:
    """How the variables that choose devices must be set, where they are.

    Attributes:
        variables: the strongest first.
        ascending: whether the list must ascend.
        together: whether all must be set alike, or none.
    """

    variables: tuple[str, ...] = ()
    ascending: bool = False
    together: bool = False

    def look(self, around: Surroundings) -> Iterator[Setting]:
        """What is wrong with them; nothing where nothing is."""
        found = {name: around.environment.get(name) for name in self.variables}
        given = {name: text for name, text in found.items() if text is not None}
        if self.ascending:
            for name, text in given.items():
                numbers = [int(part) for part in text.split(",") if part.strip().isdigit()]
                if numbers != sorted(numbers):
                    wanted = ",".join(map(str, sorted(numbers)))
                    why = "otherwise no device is seen"
                    fix = f"export {name}={wanted}"
                    yield Setting(name, "an ascending list", text, State.WRONG, why, fix)
        if self.together and given and len(set(found.values())) > 1:
            text = next(iter(given.values()))
            for name, other in found.items():
                if other != text:
                    why = f"{' and '.join(self.variables)} are read by different libraries"
                    fix = f"export {name}={text}"
                    yield Setting(name, repr(text), other, State.WRONG, why, fix)


@dataclass(frozen=True)
class Numbers:
    """What becomes of numbers outside our kernels' care, in a word or a sentence each.

    Attributes:
        float64: ``native``, or what is computed instead.
        int64: the same.
        subnormals: ``kept``, ``flushed`` or ``unknown``.
        float32_products: precision of a float32 product in Triton unless it is asked for another.
    """

    float64: str
    int64: str
    subnormals: str
    float32_products: str


@dataclass(frozen=True)
class Compiler:
    """The Triton that makes code for the chip.

    Attributes:
        package: where it comes from.
        target: its name of the target.
        warp_size: threads of a warp, as its target says.
        limits: what it does not take, or takes otherwise, in sentences.
    """

    package: str
    target: str
    warp_size: int
    limits: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Description:
    """What every chip's backend.yaml says, whatever drives it.

    Attributes:
        vendor: who makes it.
        collectives: torch.distributed backend of its tensors.
        rules: all must hold for the chip to be this one. They exclude every other vendor's, so that
            no order of asking is needed.
        visible: variables that choose among several devices.
        imports: modules that must be imported before the device can be used.
        variables: what the environment must hold.
        absent: what it must not hold.
        flags: what is set when the backend is opened.
        nondeterministic: op of torch to why the backend does not call it on the device.
        unestablished: what is assumed and has no source yet, in sentences.
    """

    vendor: str
    collectives: str
    rules: tuple[Rule, ...]
    visible: Visible = Visible()
    imports: tuple[str, ...] = ()
    variables: tuple[Variable, ...] = ()
    absent: tuple[Absent, ...] = ()
    flags: tuple[Flag, ...] = ()
    nondeterministic: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    unestablished: tuple[str, ...] = ()

    def settings(self, around: Surroundings, initialized: bool) -> tuple[Setting, ...]:
        """Everything that must be set, and how it stands."""
        return (
            *(variable.look(around, initialized) for variable in self.variables),
            *(entry.look(around) for entry in self.absent),
            *self.visible.look(around),
            *(flag.look(around) for flag in self.flags),
        )


@dataclass(frozen=True, kw_only=True)
class DeviceDescription(Description):
    """The backend.yaml of a chip that is a device of torch's.

    Attributes:
        device_type: torch's name of the device, as in ``torch.device(device_type)``.
        graphs: class of the namespace that records a graph of launches; None where there is none.
    """

    device_type: str
    graphs: str | None = None


@dataclass(frozen=True, kw_only=True)
class Descriptor(DeviceDescription):
    """The backend.yaml of a chip that Triton makes code for.

    Attributes:
        triton: the compiler.
        numbers: what becomes of float64, int64 and subnormal numbers.
        tiles: least capability to the file of its tiles, ascending; ``*`` where there is one.
    """

    triton: Compiler
    numbers: Numbers
    tiles: Mapping[str, str]

    def tile_file(self, capability: tuple[int, int] | None) -> str:
        """The file of tiles for a device of some capability: of the highest that it reaches.

        Raises:
            LookupError: the device is below all of them.
        """
        if capability is None:
            return self.tiles["*"]
        reached = [
            file
            for least, file in self.tiles.items()
            if least == "*" or capability >= tuple(map(int, least.split(".")))
        ]
        if not reached:
            raise LookupError(f"tiles begin with capability {next(iter(self.tiles))}")
        return reached[-1]


def read_descriptor(package: str, file: str = "backend.yaml") -> Descriptor:
    """The descriptor that lies in a package.

    Raises:
        BackendDefinitionError: naming the file and every entry that does not fit.
    """
    return read_description(Descriptor, package, file)


def read_description(kind: type[D], package: str, file: str = "backend.yaml") -> D:
    """A description of a kind that lies in a package.

    Raises:
        BackendDefinitionError: naming the file and every entry that does not fit.
    """
    text = files(package).joinpath(file).read_text("utf-8")
    return _parsed(kind, yaml.safe_load(text), f"{package}/{file}")


def parse(record: object, where: str) -> Descriptor:
    """A descriptor of plain data.

    Raises:
        BackendDefinitionError: naming `where` and every entry that does not fit.
    """
    return _parsed(Descriptor, record, where)


def _parsed(kind: type[D], record: object, where: str) -> D:
    problems: list[str] = []
    made: D | None = _made(kind, record, "", problems)
    if made is None or problems:
        raise BackendDefinitionError(
            f"{where} does not fit backend.schema.json:\n" + "\n".join(f"  - {p}" for p in problems)
        )
    return made


_LABELS: Mapping[object, str] = MappingProxyType({str: "a text", bool: "true or false"})


def _made(cls: type, record: object, where: str, problems: list[str]) -> Any:
    """An instance of a record class, or None with the reasons in `problems`."""
    if not isinstance(record, dict):
        problems.append(f"{where or 'the file'} is {record!r}, expected a mapping")
        return None
    before = len(problems)
    known = {entry.name: entry for entry in fields(cls)}
    inside = f"{where}." if where else ""
    problems += [
        f"{inside}{key} is unknown; known: {', '.join(known)}" for key in record if key not in known
    ]
    problems += [
        f"{inside}{name} is missing"
        for name, entry in known.items()
        if name not in record and entry.default is MISSING and entry.default_factory is MISSING
    ]
    hints = get_type_hints(cls)
    values = {
        name: _value(hints[name], record[name], f"{inside}{name}", problems)
        for name in known
        if name in record
    }
    return None if len(problems) > before else cls(**values)


def _value(kind: Any, value: object, where: str, problems: list[str]) -> Any:
    """A field's value, checked against its annotation."""
    origin, args = get_origin(kind), get_args(kind)
    if origin is tuple:
        if not isinstance(value, list):
            problems.append(f"{where} is {value!r}, expected a list")
            return ()
        return tuple(_value(args[0], v, f"{where}[{i}]", problems) for i, v in enumerate(value))
    if origin is Mapping:
        if not isinstance(value, dict):
            problems.append(f"{where} is {value!r}, expected a mapping")
            return {}
        for key, text in value.items():
            _value(str, key, f"a key of {where}", problems)
            _value(args[1], text, f"{where}.{key}", problems)
        return MappingProxyType(value)
    if isinstance(kind, type) and is_dataclass(kind):
        return _made(kind, value, where, problems)
    allowed = [part for part in args if part is not type(None)] or [kind]
    if type(value) not in allowed:  # exactly: true is no number here
        labels = " or ".join(_LABELS.get(part, "a number") for part in allowed)
        problems.append(f"{where} is {value!r}, expected {labels}")
    return value
