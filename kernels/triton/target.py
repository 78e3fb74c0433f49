"""What a chip can do and how large its tiles are: data, written down once per chip."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from importlib.resources import files
from types import MappingProxyType
from typing import Any

import torch
import yaml

from glm5_hal.errors import BackendDefinitionError, ContractError

REACH = 1 << 31
"""Elements that offsets of 32 bits reach."""
_NO_SIZES = ("warps", "stages", "options")


@dataclass(frozen=True)
class Tile:
    """How one kernel is cut.

    Attributes:
        sizes: names and values of its compile-time sizes.
        warps: warps of a program.
        stages: depth of its software pipeline.
        options: of the chip's own compiler, such as `multibuffer` of triton-ascend.
    """

    sizes: Mapping[str, int]
    warps: int = 4
    stages: int = 2
    options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    def fitted(self, size: str, extent: int, least: int = 16) -> int:
        """A size, or less where what it cuts is smaller: then the power of two that holds it."""
        return min(padded(extent, least), self.sizes[size])

    def to_list(self) -> list[Any]:
        """Plain data, for a digest."""
        plain = [dict(self.sizes), self.warps, self.stages]
        return [*plain, dict(self.options)] if self.options else plain


Launcher = Callable[[Any, int, tuple[Any, ...], Mapping[str, Any]], None]
"""Runs a kernel: the kernel, its programs, its arguments, its constants and launch options."""


def launch_here(
    kernel: Any, programs: int, arguments: tuple[Any, ...], constants: Mapping[str, Any]
) -> None:
    """Run a kernel where triton runs it by itself: on the current device and stream."""
    kernel[(programs,)](*arguments, **constants)


@dataclass(frozen=True)
class Target:
    """A chip as the kernels see it.

    Attributes:
        name: of the table of tiles.
        warp_size: threads of a warp.
        max_warps: most warps of a program.
        shared_memory: bytes a program may use.
        grid_limit: most programs of one launch; larger grids are launched in parts.
        dot_dtypes: dtypes that a dot product takes: of int8, bfloat16, float32.
        input_precision: what a float32 dot product may be asked for, best first.
        scratch: bytes that an op may allocate for intermediate results.
        programs: how many fill the chip, for ops that can be cut finer.
        barriers: whether a program's threads can wait for what others of it have stored.
        wide_integers: whether 64-bit integers have 64 bits; where not, tensors that 32 bits cannot
            address are refused. No kernel computes anything else with them. No part of the hash.
        tiles: tile of each kernel.
        launcher: how a backend runs a kernel on a device of its own; no part of the hash.
    """

    name: str
    warp_size: int = 32
    max_warps: int = 16
    shared_memory: int = 64 << 10
    grid_limit: int = 32768
    dot_dtypes: tuple[str, ...] = ("int8", "bfloat16", "float32")
    input_precision: tuple[str, ...] = ("ieee",)
    scratch: int = 256 << 20
    programs: int = 256
    barriers: bool = True
    wide_integers: bool = field(default=True, metadata={"hashed": False})
    tiles: Mapping[str, Tile] = field(default_factory=lambda: MappingProxyType({}))
    launcher: Launcher = field(default=launch_here, compare=False, metadata={"hashed": False})

    def tile(self, kernel: str) -> Tile:
        """The tile of a kernel.

        Raises:
            BackendDefinitionError: the table has none.
        """
        if kernel not in self.tiles:
            raise BackendDefinitionError(
                f"the table of tiles {self.name!r} has no row for kernel {kernel!r}, only for "
                f"{', '.join(sorted(self.tiles))}; portable.yaml in glm5_hal.kernels.triton has one"
            )
        return self.tiles[kernel]

    def widens(self, dtype: torch.dtype) -> bool:
        """Whether operands of a dot product are made float32 first: the chip takes no others."""
        return str(dtype).removeprefix("torch.") not in self.dot_dtypes

    @property
    def hash(self) -> str:
        """SHA-256 of the whole record: part of the plan, for a tile can change a fast bit."""
        hashed = [entry.name for entry in fields(self) if entry.metadata.get("hashed", True)]
        plain = {name: getattr(self, name) for name in hashed}
        plain["tiles"] = {name: tile.to_list() for name, tile in self.tiles.items()}
        return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()

    def launch(
        self, kernel: Any, programs: int, *arguments: Any, tile: str, **constants: Any
    ) -> None:
        """Run `programs` programs of a kernel, whose first parameter is the first one's number.

        Float additions and multiplications are never contracted, in either profile.
        """
        chosen = self.tile(tile)
        options = {
            **chosen.sizes,
            **constants,
            "num_warps": min(chosen.warps, self.max_warps),
            "num_stages": chosen.stages,
            "enable_fp_fusion": False,
            **chosen.options,
        }
        if not self.wide_integers:
            self._check_reach(arguments)
        for first in range(0, programs, self.grid_limit):
            part = min(programs - first, self.grid_limit)
            self.launcher(kernel, part, (first, *arguments), options)

    def _check_reach(self, arguments: tuple[Any, ...]) -> None:
        """Refuse tensors whose last element 32 bits do not address.

        Raises:
            ContractError: one is too large for the chip.
        """
        for tensor in arguments:
            if not isinstance(tensor, torch.Tensor) or not tensor.numel():
                continue
            steps = zip(tensor.shape, tensor.stride(), strict=True)
            reach = 1 + sum((size - 1) * stride for size, stride in steps)
            if reach > REACH:
                raise ContractError(
                    f"a tensor of shape {list(tensor.shape)} reaches over {reach:,} elements; "
                    f"{self.name} computes addresses in 32 bits, up to {REACH:,}: cut it, for "
                    "example over more ranks"
                )


def read_target(package: str, file: str) -> Target:
    """A target from a YAML file of a package: the fields of `Target`, tiles by kernel.

    A tile is a mapping of sizes; `warps`, `stages` and `options` stand among them.

    Raises:
        BackendDefinitionError: the file has no tiles, or a field that no target has.
    """
    record = yaml.safe_load(files(package).joinpath(file).read_text())
    known = {entry.name for entry in fields(Target)} - {"launcher"}
    if not isinstance(record, dict) or not {"name", "tiles"} <= record.keys() <= known:
        raise BackendDefinitionError(
            f"{file} of {package} is no table of tiles; its fields are name, tiles and any of "
            f"{', '.join(sorted(known - {'name', 'tiles'}))}"
        )
    tiles = {
        name: Tile(
            {key: size for key, size in row.items() if key not in _NO_SIZES},
            **{key: row[key] for key in _NO_SIZES if key in row},
        )
        for name, row in record.pop("tiles").items()
    }
    for name in ("dot_dtypes", "input_precision"):
        if name in record:
            record[name] = tuple(record[name])
    return Target(**record, tiles=MappingProxyType(tiles))


def padded(size: int, least: int = 16) -> int:
    """The power of two that holds `size`, at least `least`."""
    return max(least, 1 << max(size - 1, 0).bit_length())


def tiles_of(size: int, tile: int) -> int:
    """How many tiles cover `size`."""
    return -(-size // tile)
