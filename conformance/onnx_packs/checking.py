"""Judging outputs that were computed elsewhere, by the suite's own checks."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from glm5_hal.conformance.case import Case, Failure, Result, Status
from glm5_hal.conformance.compare import Difference
from glm5_hal.conformance.errors import AskedError, PackageError, UnusableError
from glm5_hal.conformance.judge import judge, not_claimed, outcome
from glm5_hal.conformance.onnx_packs import layout, tensors
from glm5_hal.conformance.onnx_packs.calls import AskedCall, ReplayingRuntime, Results
from glm5_hal.conformance.verdict import BROKEN
from glm5_hal.levels import Level, Numerics

_EARLIER = "an earlier result of this case differs, so that another call followed from it"
_SHOWN = 5

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Checked:
    """What the outputs of a pack amount to.

    Attributes:
        pack: the pack.
        results: one a case, in the order of the pack.
        foreign: files among the results that no model of the pack gives.
    """

    pack: layout.Pack
    results: tuple[Result, ...]
    foreign: tuple[str, ...]

    @property
    def problems(self) -> list[str]:
        """Why it has failed, in sentences; empty when it has passed."""
        failed = sum(result.status in BROKEN for result in self.results)
        said = [f"{failed} of {len(self.results)} cases: FAIL"] if failed else []
        if self.foreign:
            more = f" and {len(self.foreign) - _SHOWN} more" if len(self.foreign) > _SHOWN else ""
            names = ", ".join(self.foreign[:_SHOWN])
            said.append(f"results that no model of the pack gives: {names}{more}")
        return said


def check(
    pack: layout.Pack,
    results: Path,
    catalogue: Mapping[str, Case],
    *,
    ops: tuple[str, ...] = (),
    claims: frozenset[Level] = frozenset(Level),
    progress: Progress | None = None,
) -> Checked:
    """Judge the outputs in a directory.

    Args:
        pack: what was run.
        results: holds ``MODEL/test_data_set_N/output_K.pb`` for every output of the pack.
        catalogue: the suite's cases.
        ops: judge cases of these only.
        claims: levels that are promised: cases of others are not judged.
        progress: told (cases done, cases in all).

    Raises:
        AskedError: no such directory, or an op without cases in the pack.
        UnusableError: the directory holds no output of the pack.
        PackageError: a case that this suite does not have.
    """
    if not results.is_dir():
        raise AskedError(f"{results} is no directory; expected the outputs of {pack.path}")
    chosen = _chosen(pack, ops)
    expected = {
        f"{entry.folder}/{layout.output_file(place)}"
        for entry in pack.data_sets.values()
        for place in range(len(entry.outputs))
    }
    found = {p.relative_to(results).as_posix() for p in results.rglob("*") if not p.is_dir()}
    if not found & expected:
        raise UnusableError(
            f"{results} holds no output of the pack; expected such as {min(expected)}"
        )
    answers = _Answers(pack, results)
    judged = []
    for done, case in enumerate(chosen):
        if progress is not None:
            progress(done, len(chosen))
        if case.id not in catalogue:
            raise PackageError(f"the pack holds {case.id}, which is no case of this suite")
        judged.append(answers.judge(catalogue[case.id], case, claims))
    return Checked(pack, tuple(judged), tuple(sorted(found - expected)))


def _chosen(pack: layout.Pack, ops: tuple[str, ...]) -> list[layout.PackedCase]:
    known = sorted({case.op for case in pack.cases.values()})
    if unknown := [op for op in ops if op not in known]:
        raise AskedError(f"the pack has no {', '.join(unknown)}; it has {', '.join(known)}")
    return [case for case in pack.cases.values() if not ops or case.op in ops]


class _Answers:
    """Outputs by call."""

    def __init__(self, pack: layout.Pack, results: Path) -> None:
        self._pack, self._results = pack, results
        self._by_call = {entry.call: entry for entry in pack.data_sets.values()}
        self._numerics = Numerics(pack.facts["profile"])

    def judge(self, case: Case, packed: layout.PackedCase, claims: frozenset[Level]) -> Result:
        """Run a case's check on the outputs."""
        runtime = ReplayingRuntime(self._numerics, self._give)
        if not_claimed(case, claims, ""):
            reason = f"{case.aspect} is not claimed"
            return outcome(case, runtime.plan, Status.NOT_RUN, 0.0, reason)
        result = judge(case, runtime)
        return replace(result, reproduce=self._again(packed))

    def _again(self, packed: layout.PackedCase) -> str:
        first = self._pack.path / packed.data_sets[0]
        more = len(packed.data_sets) - 1
        rest = f", and {more} data sets more" if more else ""
        return f"run {first.parent / layout.MODEL_FILE} on {first.name}{rest}"

    def _give(self, call: AskedCall) -> Results:
        entry = self._by_call.get(call.key)
        if entry is None:
            raise Failure(f"a call of {call.op} that the pack does not hold", hint=_EARLIER)
        return tuple(
            self._output(entry, place, expected) for place, expected in enumerate(entry.outputs)
        )

    def _output(self, entry: layout.DataSet, place: int, expected: layout.Output) -> Tensor:
        path = self._results / entry.folder / layout.output_file(place)
        if not path.is_file():
            raise Failure(f"{path} is missing: no answer to this data set")
        try:
            tensor = tensors.load(path)
        except tensors.TensorError as error:
            raise Failure(str(error)) from error
        wanted = f"{expected.dtype} {list(expected.shape)}"
        got = f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
        if wanted != got:
            raise Failure(
                f"{path} is {got}, expected {wanted}",
                difference=Difference(place, (), wanted, got, None, 0, 0),
            )
        return tensor
