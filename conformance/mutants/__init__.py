"""Backends that are broken on purpose: proof that the suite fails when it should.

Each is the CPU backend of a profile with one fault, as it happens in practice, and names the
requirement that is meant to find it. A suite that one of them survives is too weak.
"""

from glm5_hal.conformance.mutants.mutant import Mutant, mutants
from glm5_hal.conformance.mutants.report import Finding, MutationReport, Outcome, summary
from glm5_hal.conformance.mutants.runner import run

__all__ = ["Finding", "Mutant", "MutationReport", "Outcome", "mutants", "run", "summary"]
