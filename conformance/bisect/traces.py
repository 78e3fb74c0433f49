"""What a run is reduced to: a digest of everything that each op call was given and gave."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from glm5_hal import PagedContext, WeightRole
from glm5_hal.conformance.bisect.observed import Results
from glm5_hal.conformance.bisect.sites import Site
from glm5_hal.conformance.call import CacheValue, Call, WeightValue
from glm5_hal.conformance.families.judging import raw_digests

_CONTEXT = ("page_table", "sequence", "lengths")


@dataclass(frozen=True)
class Print:
    """Of a tensor.

    Attributes:
        dtype, shape: its form.
        sha256: of form and bytes.
    """

    dtype: str
    shape: tuple[int, ...]
    sha256: str

    @classmethod
    def of(cls, tensor: Tensor) -> "Print":
        """Take it."""
        (digest,) = raw_digests((tensor,)).values()
        return cls(str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), digest)

    def __str__(self) -> str:
        return f"{self.dtype} {list(self.shape)} {self.sha256[:12]}"


@dataclass(frozen=True)
class PrintedWeight:
    """What stands for a weight in the calls of a traced run.

    Attributes:
        print: of the host tensor as it was loaded.
        value: the tensor itself, where calls may be kept whole.
    """

    print: Print
    value: WeightValue | None


Given = Print | str
"""A tensor's print, or any other argument as JSON would write it."""


@dataclass(frozen=True)
class Traced:
    """One op call.

    Attributes:
        site: which.
        given: by argument; a context's and a cache's members as ``context.lengths``.
        gave: of each result; of cache_write all slots.
    """

    site: Site
    given: Mapping[str, Given]
    gave: tuple[Print, ...]


@dataclass
class Recorder:
    """Takes the prints of a run: hand its `see` to an `Observed`.

    Attributes:
        whole: selectors of calls that are kept whole, see `Site.chosen`.
        calls: in order; parts stand before their composite.
        kept: the calls kept whole, with their results, by name.
    """

    whole: Sequence[str] = ()
    calls: list[Traced] = field(default_factory=list)
    kept: dict[str, tuple[Call, Results]] = field(default_factory=dict)
    _weights: dict[int, tuple[WeightValue, Print]] = field(default_factory=dict)

    def keep(self, role: WeightRole, tensor: Tensor) -> PrintedWeight:
        """A weight's print, and the weight itself only where calls are kept whole."""
        value = WeightValue(role, tensor) if self.whole else None
        return PrintedWeight(Print.of(tensor), value)

    def see(self, site: Site, call: Call, results: Results) -> None:
        """Take the prints of a finished call."""
        given: dict[str, Given] = {}
        for name, value in call.arguments.items():
            given |= self._prints(name, value)
        self.calls.append(Traced(site, given, tuple(map(Print.of, results))))
        if site.chosen(self.whole):
            self.kept[site.name] = _whole(call), results

    def _prints(self, name: str, value: Any) -> dict[str, Given]:
        if isinstance(value, Tensor):
            return {name: Print.of(value)}
        if isinstance(value, PrintedWeight):
            return {name: value.print}
        if isinstance(value, WeightValue):
            if id(value) not in self._weights:
                self._weights[id(value)] = value, Print.of(value.tensor)
            return {name: self._weights[id(value)][1]}
        if isinstance(value, CacheValue):
            return {name: Print.of(value.rows), f"{name}.page_size": str(value.page_size)}
        if isinstance(value, PagedContext):
            prints: dict[str, Given] = {
                f"{name}.{part}": Print.of(getattr(value, part)) for part in _CONTEXT
            }
            return {**prints, f"{name}.max_length": str(value.max_length)}
        if isinstance(value, torch.dtype):
            return {name: str(value).removeprefix("torch.")}
        return {name: repr(value)}


def _whole(call: Call) -> Call:
    """The call with the weights themselves."""
    whole = {
        name: value.value if isinstance(value, PrintedWeight) else value
        for name, value in call.arguments.items()
    }
    return call.with_arguments(**whole)
