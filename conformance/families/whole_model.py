"""The tiny model as a whole: batch, chunks, decode, pages, drafts, sampling."""

import functools
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from glm5_hal import Runtime, ops
from glm5_hal.conformance import data
from glm5_hal.conformance.case import ACCURACY, FUNCTION, Case, Check, Evidence, Failure
from glm5_hal.conformance.families.judging import digests, same_bytes
from glm5_hal.conformance.reference_backend import reference_runtime
from glm5_hal.levels import Level
from glm5_hal.model.config import ModelConfig
from glm5_hal.model.generate import Sampling, generate, sequence_logits
from glm5_hal.model.glm5 import GLM5
from glm5_hal.model.kv_cache import KVCache
from glm5_hal.model.load import load_model
from glm5_hal.model.make_checkpoint import make_checkpoint

QUICK_IN_FP32 = {
    "MODEL-2": "rounding to bf16 hides that a prefill adds in another order",
    "MODEL-6": "it is judged in fp32 alone",
}
"""Requirements of which the quick selection takes the fp32 case, and why."""

LENGTHS = (5, 33, 2, 20)
"""Tokens of each sequence of the batch."""

DTypeName = Literal["fp32", "bf16"]
DTYPES: tuple[DTypeName, ...] = ("fp32", "bf16")
"""Activation dtypes of the model."""
ModelCheck = Callable[[GLM5], Evidence]


def cases() -> Iterator[Case]:
    """Every model requirement, in both activation dtypes."""
    batch, schedule = Level.BATCH_INVARIANT.value, Level.SCHEDULE_INVARIANT.value
    checks: tuple[tuple[str, str, str, str, ModelCheck], ...] = (
        ("MODEL-1", "invariance", "batch", batch, _batch),
        ("MODEL-2", "invariance", "chunks", schedule, _chunks),
        ("MODEL-3", "invariance", "decode", schedule, _decode),
        ("MODEL-4", "invariance", "pages", schedule, _pages),
        ("MODEL-5", "invariance", "drafts", schedule, _drafts),
        ("MODEL-6", "accuracy", "references", ACCURACY, _references),
        ("MODEL-7", "parity", "sampling", FUNCTION, _sampling),
    )
    for requirement, relation, tag, aspect, check in checks:
        for dtype in DTYPES:
            if check is _references and dtype == "bf16":
                continue  # one bf16 rounding turns a selection; the ops are judged one by one
            yield Case(
                id=f"{requirement}/{relation}-{tag}/tiny/{dtype}",
                requirement=requirement,
                op="model",
                aspect=aspect,
                relation=relation,
                check=_on_model(check, dtype),
                quick=in_quick(requirement, dtype),
                shares=shared(dtype),
            )


def in_quick(requirement: str, dtype: DTypeName) -> bool:
    """Whether the quick selection runs the model in a dtype; the single ops it judges in both.

    It takes one for each requirement: bf16, as the published model, where nothing speaks for fp32.
    """
    return dtype == ("fp32" if requirement in QUICK_IN_FP32 else "bf16")


def _on_model(check: ModelCheck, dtype: DTypeName) -> Check:
    return lambda runtime: check(model_of(runtime, dtype))


def shared(dtype: DTypeName) -> str:
    """What `model_of` makes, as cases name it."""
    return f"tiny model, {dtype}"


@functools.lru_cache(maxsize=4)
def model_of(runtime: Runtime, dtype: DTypeName) -> GLM5:
    """The tiny model with the suite's own weights."""
    with tempfile.TemporaryDirectory() as parent:
        directory = Path(parent) / "tiny"
        make_checkpoint(ModelConfig.load("tiny"), directory, seed=data.SEED, dtype=dtype)
        return load_model(directory, runtime)


def prompts_of(model: GLM5) -> list[list[int]]:
    vocabulary = model.config.vocab_size
    return [
        data.integers(f"prompt{row}", (length,), 0, vocabulary).tolist()
        for row, length in enumerate(LENGTHS)
    ]


def _same_logits(expected: list[Tensor], found: list[Tensor], change: str) -> None:
    same_bytes(tuple(expected), tuple(found), message="other logits", change=change, hint=BISECT)


BISECT = "the cases of the single ops name the op; `glm5-hal bisect` names the op call of a run"


def _batch(model: GLM5) -> Evidence:
    prompts = prompts_of(model)
    together = sequence_logits(model, prompts)
    for row, prompt in enumerate(prompts):
        alone = sequence_logits(model, [prompt])
        _same_logits(together[row : row + 1], alone, f"sequence {row} alone")
    reverse = sequence_logits(model, prompts[::-1])
    _same_logits(together, reverse[::-1], "sequences in reverse order")
    crowd = sequence_logits(model, prompts * 3)
    _same_logits(together * 3, crowd, "every sequence three times")
    return Evidence(digests(tuple(together)))


def _chunks(model: GLM5) -> Evidence:
    prompts = prompts_of(model)
    whole = sequence_logits(model, prompts)
    for chunk in (1, 7, 64):
        _same_logits(whole, sequence_logits(model, prompts, chunk=chunk), f"chunks of {chunk}")
    return Evidence(digests(tuple(whole)))


def _decode(model: GLM5) -> Evidence:
    """A prefill, then one token at a time, each sequence in steps of its own."""
    prompts = prompts_of(model)
    whole = sequence_logits(model, prompts)
    cache = _cache(model)
    handles = [cache.add() for _ in prompts]
    for row, (handle, prompt) in enumerate(zip(handles, prompts, strict=True)):
        half = max(1, len(prompt) // 2)
        pieces = [prompt[:half], *([token] for token in prompt[half:])]
        parts = [_step_logits(model, cache, handle, piece) for piece in pieces]
        _same_logits(whole[row : row + 1], [torch.cat(parts)], f"sequence {row}: {half}, then one")
    return Evidence(digests(tuple(whole)))


def _cache(model: GLM5, mtp: bool = False) -> KVCache:
    return KVCache(
        model.config,
        model.runtime,
        tokens=4 * sum(LENGTHS),
        sequences=4 * len(LENGTHS),
        dtype=model.dtype,
        mtp=mtp,
    )


def _step_logits(model: GLM5, cache: KVCache, handle: int, tokens: list[int]) -> Tensor:
    step = cache.append([(handle, tokens)])
    return model.runtime.backend.to_host(model.logits(model.forward(step, cache))).clone()


def _pages(model: GLM5) -> Evidence:
    """Pages that others were run on before, in another order."""
    prompts = prompts_of(model)
    whole = sequence_logits(model, prompts)
    cache = _cache(model)
    _spoil(model, cache)
    used = [cache.add() for _ in prompts]
    for handle, prompt in zip(used, reversed(prompts), strict=True):
        _step_logits(model, cache, handle, prompt)
    for handle in used[::2]:
        cache.release(handle)
    found = [_step_logits(model, cache, cache.add(), prompt) for prompt in prompts]
    _same_logits(whole, found, "pages used before, NaN in every slot, another page order")
    return Evidence(digests(tuple(whole)))


def _spoil(model: GLM5, cache: KVCache) -> None:
    """NaN in every slot of every cache."""
    backend = model.runtime.backend
    for layer in cache.layers:
        for store in (layer.latent, layer.index_keys):
            if store is not None:
                rows = torch.full(store.shape, torch.nan, dtype=store.dtype)
                slots = torch.arange(store.shape[0], dtype=torch.int32)
                with model.runtime:
                    ops.cache_write(store, backend.to_device(rows), backend.to_device(slots))


def _drafts(model: GLM5) -> Evidence:
    prompts = prompts_of(model)
    plain = generated(model, prompts, Sampling(), 0)
    for drafts in (1, 3):
        found = generated(model, prompts, Sampling(), drafts)
        if found != plain:
            raise Failure(
                "multi-token prediction changes greedy output",
                change=f"{drafts} draft tokens a step",
                hint="verified positions do not get the bytes that single steps give",
            )
    return Evidence({"tokens": _token_digest(plain)})


def generated(
    model: GLM5, prompts: list[list[int]], sampling: Sampling, drafts: int
) -> list[list[int]]:
    out: list[list[int]] = [[] for _ in prompts]
    for emitted in generate(
        model, prompts, max_new_tokens=12, sampling=sampling, speculative=drafts, stop=()
    ):
        out[emitted.sequence] += emitted.tokens
    return out


def _token_digest(tokens: list[list[int]]) -> str:
    return digests((torch.tensor(tokens, dtype=torch.int32),))["output0"]


def _sampling(model: GLM5) -> Evidence:
    prompts = prompts_of(model)
    first = generated(model, prompts, Sampling(0.9, 0.95, seed=1), 0)
    again = generated(model, prompts, Sampling(0.9, 0.95, seed=1), 2)
    other = generated(model, prompts, Sampling(0.9, 0.95, seed=2), 0)
    if first != again:
        raise Failure("the same seed gives other tokens", change="2 draft tokens a step")
    if first == other:
        raise Failure("another seed gives the same tokens", hint="the draw is ignored")
    return Evidence({"tokens": _token_digest(first)})


def _references(model: GLM5) -> Evidence:
    """Logits of the references (float64 inside) on the same weights, fp32.

    Every layer rounds its results to float32; a relative 2^-24 in each of about 40 roundings a
    layer and four layers, amplified by at most 8 through a norm and an attention, stays below
    2^-24 * 40 * 4 * 8 = 8e-5 of the largest logit.
    """
    prompts = prompts_of(model)
    found = sequence_logits(model, prompts)
    expected = sequence_logits(model_of(reference_runtime(), "fp32"), prompts)
    for row, (want, got) in enumerate(zip(expected, found, strict=True)):
        bound = 2.0**-24 * 40 * 4 * 8 * float(want.abs().max())
        worst = float((want - got).abs().max())
        if not worst <= bound:
            raise Failure(
                f"sequence {row}: logits are {worst:.3g} from the references, bound {bound:.3g}",
                hint=BISECT,
            )
    return Evidence(digests(tuple(found)))
