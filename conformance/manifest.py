"""The manifest: everything about a run that is not a result."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from glm5_hal.conformance.data import SEED
from glm5_hal.conformance.machine import environment
from glm5_hal.conformance.runner import Job, Outcome
from glm5_hal.conformance.suite import Suite
from glm5_hal.conformance.verdict import counts, missing_levels

FORMAT = 1
"""Version of the package's layout."""


def manifest(outcome: Outcome, files: dict[str, str]) -> dict[str, Any]:
    """Plain data, for JSON.

    Args:
        outcome: a finished run.
        files: SHA-256 of every other file of the package, by name.
    """
    job = outcome.job
    return {
        "format": FORMAT,
        **suite_facts(job.suite),
        **job.selection.to_dict(),
        "partial": job.selection.partial,
        "plan": job.plan.to_dict(),
        "plan_hash": job.plan.hash,
        "backend": job.backend.name,
        "backend_class": f"{job.backend.__module__}:{job.backend.__qualname__}",
        "claims": sorted(level.value for level in job.claimed),
        "unsupported": dict(job.backend.capabilities.unsupported),
        "device": outcome.machine.device_name,
        "machine": dataclasses.asdict(outcome.machine),
        "versions": {**job.plan.versions, **outcome.machine.packages, **outcome.machine.compilers},
        "environment": environment(),
        "workers": job.workers,
        "threads": job.threads,
        "seeds": {"data": SEED},
        "started": outcome.started.isoformat(),
        "ended": outcome.ended.isoformat(),
        "seconds": (outcome.ended - outcome.started).total_seconds(),
        "counts": counts(outcome.results),
        "levels_without_cases": missing_levels(job.profile_cases),
        "must_pass_list": job.must_pass.name,
        "must_pass_hash": job.must_pass.sha256,
        "waivers": [waiver.to_dict() for waiver in job.waivers.entries],
        "warnings": warnings(job),
        "shown": outcome.shown.to_dict(),
        "files": dict(sorted(files.items())),
    }


def encode(content: dict[str, Any]) -> bytes:
    """The file."""
    return (json.dumps(content, indent=1, sort_keys=True) + "\n").encode()


def warnings(job: Job) -> list[str]:
    """What a reader should know though it changes no verdict."""
    said = [f"waiver {glob!r} matches no case" for glob in job.idle_waivers]
    if job.suite.dirty:
        said.append(f"dirty suite: {job.suite.state}")
    if job.plan.simulated:
        said.append("simulated device: nothing of this is about a chip")
    if job.plan.substituted:
        said.append(f"ops substituted by the CPU: {', '.join(job.plan.substituted)}")
    return said


def suite_facts(suite: Suite) -> dict[str, Any]:
    """The suite's part of a manifest."""
    return {
        "suite_version": suite.version,
        "contract_version": suite.contract_version,
        "source": suite.source,
        "commit": suite.commit,
        "dirty": suite.dirty,
        "suite_state": suite.state,
    }


def suite_of(content: Mapping[str, Any]) -> Suite:
    """The suite that a manifest names."""
    return Suite(
        version=content["suite_version"],
        contract_version=content["contract_version"],
        source=content["source"],
        commit=content["commit"],
        dirty=content["dirty"],
        state=content["suite_state"],
    )
