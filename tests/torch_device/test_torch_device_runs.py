"""A pretended chip that computes, with its kernels interpreted: settings, launches, graphs."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from importlib import resources
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from glm5_hal.backends.torch_triton.backend import missing_triton

if missing := missing_triton():
    pytest.skip(missing, allow_module_level=True)
from surrounded import Around, chip, namespace

from glm5_hal import Backend, Numerics, Runtime, WeightRole
from glm5_hal.conformance.reference_backend import reference_runtime
from glm5_hal.errors import BackendUnavailable
from glm5_hal.model.config import ModelConfig
from glm5_hal.model.decode import Decoder
from glm5_hal.model.kv_cache import KVCache
from glm5_hal.model.load import load_model
from glm5_hal.model.make_checkpoint import make_checkpoint
from glm5_hal.plan import make_plan
from glm5_hal.registry import load

pytestmark = [
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


@pytest.fixture
def flags(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The chip's flags, while its variable is not set."""
    load("triton-interpret").in_profile(Numerics.EXACT)  # from here on kernels are interpreted
    monkeypatch.delenv("ACME_DETERMINISTIC", raising=False)
    yield SimpleNamespace(fast_math=True)
    os.environ.pop("ACME_DETERMINISTIC", None)


def _opened(acme: Any, index: int = 0, **changes: Any) -> Backend:
    around = Around({"torch.version.acme": "1", "torch.acme": acme})
    there = namespace(changes.pop("capabilities", ((1, 0),)))
    return chip(around, there, **changes).in_profile(Numerics.EXACT)(index)


def test_opening_sets_what_is_not_set(flags: Any) -> None:
    _opened(flags)
    assert os.environ["ACME_DETERMINISTIC"] == "1"
    assert flags.fast_math is False


def test_a_flag_that_this_torch_does_not_have_is_an_error(flags: Any) -> None:
    missing = [{"flag": "torch.acme.core.fast", "value": False, "why": "w"}]
    with pytest.raises(BackendUnavailable, match=r"torch\.acme\.core does not exist in torch"):
        _opened(flags, flags=missing)


@pytest.mark.parametrize("mode", [None, "portable"])
def test_ops_run_through_the_backends_own_launcher(flags: Any, mode: str | None) -> None:
    backend = _opened(flags)
    if mode is not None:
        backend.use_mode(mode)
    launched = []
    run = type(backend)._launch  # type: ignore[attr-defined]

    def watched(*arguments: Any) -> None:
        launched.append(arguments)
        run(backend, *arguments)

    object.__setattr__(backend._target, "launcher", watched)  # type: ignore[attr-defined]
    x, w = torch.randn(3, 40), torch.randn(5, 40)
    definition = reference_runtime(Numerics.EXACT).backend
    found = backend.linear(x, backend.prepare_weight(WeightRole.LINEAR, w))
    wanted = definition.linear(x, definition.prepare_weight(WeightRole.LINEAR, w))
    assert torch.equal(found, wanted)
    assert launched


def test_a_second_device_of_another_kind_needs_a_plan_of_its_own(flags: Any) -> None:
    kinds = ((1, 0), (2, 0))
    assert _opened(flags, 0, capabilities=kinds).index == 0
    with pytest.raises(BackendUnavailable, match="device 1 is of another kind than device 0"):
        _opened(flags, 1, capabilities=kinds)


def test_recording_runs_the_step_once_before_it_records(flags: Any) -> None:
    runs = []
    replay = _opened(flags).record(lambda: runs.append(1))
    assert len(runs) == 2
    assert replay is not None
    replay()
    assert len(runs) == 2  # replayed, not run
    assert _opened(flags, graphs=None).record(runs.clear) is None


class _NoQuestions(TorchDispatchMode):
    """Refuses what a recorded step may not do: ask a tensor for its values."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func is not torch.ops.aten._local_scalar_dense.default, "the step reads a value"
        assert "nonzero" not in str(func), "the step asks how many"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "numerics", [Numerics.FAST, pytest.param(Numerics.EXACT, marks=pytest.mark.slow)]
)
def test_a_decode_step_asks_no_tensor_for_its_values(
    flags: Any, numerics: Numerics, tmp_path: Path
) -> None:
    """So it can be recorded: only kernels see the values, which the interpreter lets them do."""
    around = Around({"torch.version.acme": "1", "torch.acme": flags})
    acme = chip(around, namespace()).in_profile(numerics)
    runtime = Runtime(make_plan(acme, 0, numerics), acme())
    file = resources.files("glm5_hal.model") / "configs" / "tiny.json"
    keys = {"num_hidden_layers": 1, "first_k_dense_replace": 0, "index_topk": 8}
    config = ModelConfig.from_dict(json.loads(file.read_text("utf-8")) | keys)
    make_checkpoint(config, tmp_path / "c", seed=0, dtype="fp32", mtp=False)
    model = load_model(tmp_path / "c", runtime)
    run, steps = runtime.backend._launch, []  # type: ignore[attr-defined]

    def unwatched(*arguments: Any) -> None:
        with torch.utils._python_dispatch._disable_current_modes():
            run(*arguments)

    target = replace(runtime.backend._target, launcher=unwatched)  # type: ignore[attr-defined]
    runtime.backend._target = target  # type: ignore[attr-defined]
    cache = KVCache(config, runtime, tokens=80, sequences=1, dtype=model.dtype)
    handle = cache.add()
    model.forward(cache.append([(handle, [3] * 12)]), cache)

    def record(step: Callable[[], None]) -> Callable[[], None]:
        def watched() -> None:
            with _NoQuestions():
                step()
            steps.append(1)

        watched()
        return watched

    runtime.backend.record = record  # type: ignore[method-assign]
    hidden = Decoder(model, cache).hidden(cache.append([(handle, [5])]))
    assert bool(hidden.isfinite().all())
    assert len(steps) == 2
