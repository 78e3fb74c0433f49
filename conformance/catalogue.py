"""All cases of the suite, and the two-way check between requirements and cases."""

import functools
from collections import Counter
from collections.abc import Iterator

from glm5_hal.conformance import families
from glm5_hal.conformance.case import Case
from glm5_hal.requirements import REQUIREMENTS


@functools.cache
def catalogue() -> dict[str, Case]:
    """Every case by id, in a fixed order.

    Raises:
        ValueError: two cases of one id, a case without a requirement, or a requirement without a
            case: a defect of the suite itself.
    """
    cases = list(families.all_cases())
    problems = list(_problems(cases))
    if problems:
        raise ValueError("the catalogue is not sound:\n" + "\n".join(f"  - {p}" for p in problems))
    return {case.id: case for case in cases}


def _problems(cases: list[Case]) -> Iterator[str]:
    for name, count in Counter(case.id for case in cases).items():
        if count > 1:
            yield f"{count} cases are named {name}"
    for case in cases:
        if case.requirement not in REQUIREMENTS:
            yield f"{case.id} checks {case.requirement}, which is no requirement"
    for requirement in REQUIREMENTS.keys() - {case.requirement for case in cases}:
        yield f"requirement {requirement} has no case"
