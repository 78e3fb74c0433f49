"""The report of a run: one HTML file that needs nothing else.

The manifest is that of `glm5_hal.conformance.manifest`. What is absent from it is shown as not
recorded, and what contradicts the results is said: a report never shows more than the results do.
Read are ``suite_version``, ``commit``, ``dirty``, ``suite_state``, ``contract_version``,
``profile``, ``quick``, ``partial``, ``plan``, ``plan_hash``, ``backend``, ``device``, ``claims``,
``shown``, ``counts``, ``started``, ``seconds``, ``must_pass_list``, ``must_pass_hash``,
``levels_without_cases``, ``waivers``, ``unsupported``, ``warnings``, ``versions``, ``machine``,
``environment`` and ``files``; the whole manifest stands at the end of the report.
"""

from glm5_hal.conformance.report.page import render

__all__ = ["render"]
