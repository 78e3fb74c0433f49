"""Guards on every op: inputs stay, outputs are written, the claimed backend ran."""

from collections.abc import Iterator

import torch
from torch import Tensor

from glm5_hal import PagedContext, Runtime
from glm5_hal.conformance.call import CacheValue, Call, Loaded
from glm5_hal.conformance.case import GUARD, Case, Check, Evidence, Failure
from glm5_hal.conformance.families.intercept import HostDetour, InjectedError, Prefill, Refuse
from glm5_hal.conformance.families.judging import case, digests, same_bytes
from glm5_hal.conformance.families.repeat import subjects
from glm5_hal.conformance.subjects import Variant


def cases() -> Iterator[Case]:
    """The four guards, for every op."""
    for v in subjects():
        yield case("GUARD-1", "guard", v, _inputs_stay(v), aspect=GUARD, tag=v.op)
        yield case("GUARD-2", "guard", v, _outputs_written(v), aspect=GUARD, tag=v.op)
        yield case("GUARD-3", "guard", v, _claimed_backend(v), aspect=GUARD, tag=v.op)
        yield case("GUARD-4", "guard", v, _exceptions_surface(v), aspect=GUARD, tag=v.op)


def _inputs_stay(v: Variant) -> Check:
    def check(runtime: Runtime) -> Evidence:
        call = v.call()
        loaded = Loaded.on(runtime, call)
        found = loaded.answer()
        for name, value in call.arguments.items():
            if isinstance(value, Tensor):
                now = runtime.backend.to_host(loaded.arguments[name])
                same_bytes((value,), (now,), message=f"the op changed its input {name}")
            elif isinstance(value, CacheValue) and call.op != "cache_write":
                same_bytes(
                    (value.rows,), (loaded.slots(name),), message=f"the op changed the {name}"
                )
            elif isinstance(value, PagedContext):
                for part in ("page_table", "sequence", "lengths"):
                    now = runtime.backend.to_host(getattr(loaded.arguments[name], part))
                    before = getattr(value, part)
                    same_bytes((before,), (now,), message=f"the op changed its {name}.{part}")
        return Evidence(digests(found))

    return check


def _outputs_written(v: Variant) -> Check:
    def check(runtime: Runtime) -> Evidence:
        call = v.call()
        loaded = Loaded.on(runtime, call)
        with Prefill(-7.0) as fenced:
            first = loaded.run()
        if fenced.overrun:
            raise Failure(
                "something was written outside a buffer that the op allocated",
                hint="the last tile is stored whole, beyond the end of the result",
            )
        kept = loaded.fetch(first)
        with Prefill(torch.nan):
            same_bytes(
                kept,
                loaded.answer(),
                message="an element of the result is not written",
                change="buffers pre-filled with NaN instead of -7",
                hint="the tail of a tile is left out",
            )
        other = Loaded.on(runtime, _negated(call))
        other.run()
        if first != (None,):
            same_bytes(
                kept,
                loaded.fetch(first),
                message="a later call overwrote the result of an earlier one",
                hint="results live in a buffer that is reused",
            )
        return Evidence(digests(kept))

    return check


def _negated(call: Call) -> Call:
    changed = {
        name: -value
        for name, value in call.arguments.items()
        if isinstance(value, Tensor)
        and value.is_floating_point()
        and name not in ("temperature", "top_p")
    }
    return call.with_arguments(**changed)


def _claimed_backend(v: Variant) -> Check:
    def check(runtime: Runtime) -> Evidence:
        call = v.call()
        source = runtime.plan.ops[call.op].source
        if source == "substitute":
            raise Failure("the plan substitutes this op on the CPU", hint="it claims nothing")
        loaded = Loaded.on(runtime, call)
        with HostDetour(runtime) as detour:
            results = loaded.run()
        if detour.copies:
            raise Failure(
                f"{detour.copies} copies or computations on the host inside the op",
                hint="a silent fallback to the CPU",
            )
        for number, result in enumerate(results):
            if isinstance(result, Tensor) and result.device != runtime.backend.device:
                raise Failure(
                    f"result {number} lies on {result.device}, "
                    f"the backend's device is {runtime.backend.device}"
                )
        return Evidence(digests(loaded.fetch(results)))

    return check


def _exceptions_surface(v: Variant) -> Check:
    def check(runtime: Runtime) -> Evidence:
        loaded = Loaded.on(runtime, v.call())
        found = loaded.answer()
        for after in (0, 2):
            refuse = Refuse(after)
            try:
                with refuse:
                    loaded.run()
            except InjectedError:
                pass
            else:
                if refuse.raised:
                    raise Failure(
                        "an error inside the op was swallowed",
                        change=f"torch call {after + 1} inside the op fails",
                        hint="another implementation answered after an exception",
                    )
            again = Loaded.on(runtime, v.call()).answer()
            same_bytes(
                found,
                again,
                message="after an error the op gives other bytes",
                change="one earlier call failed",
                hint="an implementation is switched for the rest of the process",
            )
        return Evidence(digests(found))

    return check
