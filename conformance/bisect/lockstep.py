"""One backend runs the model; the other is asked every op call with the same inputs."""

from dataclasses import dataclass

from glm5_hal import Runtime, Unsupported
from glm5_hal.conformance.bisect.asking import Asker, ChangedInputError, NotGivenError
from glm5_hal.conformance.bisect.findings import Finding, Findings, What
from glm5_hal.conformance.bisect.observed import Observed, Results, See, named_weights
from glm5_hal.conformance.bisect.sites import Site
from glm5_hal.conformance.call import Call, WeightValue
from glm5_hal.conformance.compare import first_difference


@dataclass(frozen=True)
class Exhibit:
    """The call that is at fault, kept so that it can be asked again.

    Attributes:
        finding: what was found.
        call: as it was given.
        expected: what the other backend answered.
    """

    finding: Finding
    call: Call
    expected: Results


class Lockstep:
    """Judges a backend call by call.

    Args:
        judged: the backend that is asked.
        against: the backend that runs the model.
        also: told every call of the run as well.

    Attributes:
        runtime: to run the model with; answers as `against` does.
        asker: asks `judged`.
        exhibit: the first call that is at fault.
    """

    def __init__(self, judged: Runtime, against: Runtime, also: See | None = None) -> None:
        self.asker = Asker(judged)
        # parts are judged even where both backends have a kernel of their own: a fault of such a
        # kernel is told from one that its parts have as well
        self.runtime = Observed(against.plan, against.backend, self._see, in_parts=True)
        self.exhibit: Exhibit | None = None
        self._also = also
        self._names: dict[int, str] = {}
        self._calls: list[Site] = []
        self._broken: list[Finding] = []

    def name_weights(self, weights: object) -> None:
        """Say where the weights of the model that runs stand in it."""
        self._names = {id(v): name for name, v in named_weights(self.runtime, weights)}

    @property
    def findings(self) -> Findings:
        """What was found so far."""
        return Findings(tuple(self._calls), tuple(self._broken))

    def _source(self, op: str) -> str:
        return self.asker.runtime.plan.ops[op].source if op else ""

    def _see(self, site: Site, call: Call, expected: Results) -> None:
        if self._also is not None:
            self._also(site, call, expected)
        self._calls.append(site)
        finding = self._judge(site, call, expected)
        if finding is None:
            return
        self._broken.append(finding)
        if self.exhibit is None and self.findings.guilty is finding:
            self.exhibit = Exhibit(finding, call, expected)

    def _judge(self, site: Site, call: Call, expected: Results) -> Finding | None:
        difference, message = None, ""
        try:
            found = self.asker.answer(call)
            difference = first_difference(expected, found, any_nan=False)
            if difference is None:
                return None
            what = What.DIFFERS
        except ChangedInputError as error:
            what, message = What.CHANGED_INPUT, str(error)
        except NotGivenError as error:
            what, message = What.UNJUDGED, str(error)
        except Unsupported as error:
            what, message = What.MISSING, str(error)
        except Exception as error:  # whatever a backend raises is a finding, never the end
            what, message = What.RAISED, f"{type(error).__name__}: {error}"
        values = [v for v in call.arguments.values() if isinstance(v, WeightValue)]
        return Finding(
            site=site,
            what=what,
            difference=difference,
            message=message,
            weights=tuple(self._names.get(id(value), "") for value in values),
            composite=self._source(site.composite),
            own=self._source(site.op),
        )
