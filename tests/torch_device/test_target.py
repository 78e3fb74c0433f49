"""What a target refuses before a kernel is launched."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from glm5_hal.errors import BackendDefinitionError, ContractError
from glm5_hal.kernels.triton.target import REACH, Target, Tile, read_target


def launched(x: torch.Tensor, wide: bool) -> int:
    """How often a kernel over a tensor is launched."""
    calls: list[Any] = []
    target = Target(name="acme", tiles={"flat": Tile({})}, wide_integers=wide)
    target = replace(target, launcher=lambda *call: calls.append(call))
    target.launch(None, 1, x, 7, tile="flat")
    return len(calls)


def test_where_64_bits_are_32_no_tensor_is_larger_than_32_bits_address() -> None:
    whole = torch.empty(2, REACH // 2, dtype=torch.int8, device="meta")
    larger = torch.empty(REACH + 1, dtype=torch.int8, device="meta")
    assert launched(whole, wide=False) == 1
    assert launched(larger, wide=True) == 1
    assert launched(larger[:0], wide=False) == 1
    with pytest.raises(
        ContractError, match="2,147,483,649 elements; acme computes addresses in 32"
    ):
        launched(larger, wide=False)
    with pytest.raises(ContractError, match="cut it"):
        launched(larger[::REACH], wide=False)  # two elements, far apart


def test_what_no_bit_depends_on_is_no_part_of_the_hash() -> None:
    assert Target(name="acme").hash == Target(name="acme", wide_integers=False).hash
    assert Target(name="acme").hash != Target(name="acme", barriers=False).hash


def test_a_kernel_without_a_row_is_named() -> None:
    with pytest.raises(BackendDefinitionError, match="'acme' has no row for kernel 'rope', only"):
        Target(name="acme", tiles={"flat": Tile({})}).tile("rope")


@pytest.mark.parametrize(
    "text", ["", "[]", "name: acme", "tiles: {}", "{name: acme, tiles: {}, warp: 32}"]
)
def test_a_table_with_other_fields_is_refused(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "tables_of_acme"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "tiles.yaml").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(BackendDefinitionError, match=r"tiles\.yaml of tables_of_acme is no table"):
        read_target("tables_of_acme", "tiles.yaml")
