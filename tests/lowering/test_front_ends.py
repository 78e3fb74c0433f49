"""Finding a front end, and what becomes of what it says."""

from collections.abc import Callable
from importlib.metadata import EntryPoint
from types import SimpleNamespace
from typing import Any, cast

import pytest

from glm5_hal import Numerics
from glm5_hal.conformance.audit.compiler import Kernel
from glm5_hal.conformance.audit.rules import Status
from glm5_hal.conformance.errors import AskedError, UnusableError
from glm5_hal.conformance.lowering import front_end as seam
from glm5_hal.conformance.lowering.judging import Verdict, chosen, judge_all, require

RESTRICTIONS = "glm5_hal.backends.ascend:restrictions.yaml"


class FakeFrontEnd:
    """Takes a kernel whose function returns code, and refuses one whose function raises."""

    target = "chip"
    tiles = "glm5_hal.kernels.triton:portable.yaml"
    restrictions = RESTRICTIONS

    def version(self) -> str:
        raise ImportError("No module named 'chip'")

    def lower(self, kernel: Kernel) -> tuple[str, str]:
        return cast("tuple[str, str]", kernel.function())


FAKE = FakeFrontEnd()


def kernel(function: Callable[[], Any], name: str = "a/b") -> Kernel:
    attributes = {"op": "a", "profile": Numerics.EXACT, "grid": (1, 1, 1), "options": {}}
    return cast("Kernel", SimpleNamespace(name=name, function=function, **attributes))


def offered(monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    points = [EntryPoint(name, value, seam.GROUP) for name, value in values.items()]
    monkeypatch.setattr(seam, "entry_points", lambda group: points)


def test_the_only_one_needs_no_name(monkeypatch: pytest.MonkeyPatch) -> None:
    offered(monkeypatch, fake=f"{__name__}:FAKE")
    assert seam.front_end() == ("fake", FAKE)
    assert seam.front_end("fake") == ("fake", FAKE)
    with pytest.raises(AskedError, match=r"no front end 'other'; there are: fake"):
        seam.front_end("other")


def test_several_need_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    offered(monkeypatch, fake=f"{__name__}:FAKE", other="nowhere:IT")
    with pytest.raises(AskedError, match="several front ends are there: fake, other"):
        seam.front_end()
    assert seam.front_end("fake")[1] is FAKE


def test_none_that_can_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    offered(monkeypatch)
    with pytest.raises(UnusableError, match="no installed package offers a front end"):
        seam.front_end()
    offered(monkeypatch, broken="glm5_hal.nowhere:IT")
    with pytest.raises(UnusableError, match=r"broken = glm5_hal.nowhere:IT does not load"):
        seam.front_end()
    offered(monkeypatch, wrong=f"{__name__}:RESTRICTIONS")
    with pytest.raises(UnusableError, match="is no front end"):
        seam.front_end()


def test_a_compiler_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("glm5_hal.conformance.lowering.judging.require_triton", lambda: "0")
    with pytest.raises(UnusableError, match=r"compiler of front end fake .*No module named 'chip'"):
        require("fake", FAKE)


def test_code_is_judged_and_errors_are_reasons() -> None:
    def refusing() -> None:
        raise ValueError("\nno such type\nand much more")

    def wrapping() -> None:
        try:
            assert False, "tf32 is not taken"  # noqa: B011, PT015 - as a compiler says it
        except AssertionError as error:
            raise RuntimeError("at 3:4:") from error

    found = list(
        judge_all(
            FAKE,
            [
                kernel(lambda: ("", 'mix_mode = "aiv"')),
                kernel(lambda: ("", "%1 = math.exp %a : tensor<4xf32>")),
                kernel(refusing),
                kernel(wrapping),
            ],
        )
    )
    assert [f.verdict for f in found] == [Verdict.CLEAN, Verdict.BROKEN, *[Verdict.REFUSED] * 2]
    assert (found[0].mode, found[0].alive) == ("aiv", 0)
    assert list(found[1].broken) == ["LOWER-FUNCTION-1"]
    assert [f.reason for f in found[2:]] == ["no such type", "tf32 is not taken"]
    assert {judged.status for judged in found[2].rules.values()} == {Status.UNSEEN}
    plain: Any = found[1].to_dict()
    assert plain["verdict"] == "broken"
    assert plain["rules"]["LOWER-FUNCTION-1"]["lines"] == ["%1 = math.exp %a : tensor<4xf32>"]


def test_kernels_are_chosen_by_parts_of_their_names() -> None:
    kernels = [kernel(lambda: None, "a/one"), kernel(lambda: None, "b/two")]
    assert [k.name for k in chosen(lambda: kernels, ("two",))] == ["b/two"]
    assert len(chosen(lambda: kernels)) == 2
    with pytest.raises(AskedError, match=r"no kernel has 'c' in its name; they begin with: a"):
        chosen(lambda: kernels, ("c",))
