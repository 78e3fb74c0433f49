"""The model against transformers' GlmMoeDsaForCausalLM, an implementation of other people.

Both sides read the same files: transformers loads the checkpoint with its own rules for names and
for stacking experts, and reads the same config.json. It computes the expanded form of attention
through a mask and adds experts in another order, so sums differ in their order and no more.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from glm5_hal import Runtime
from glm5_hal.model.config import ModelConfig
from glm5_hal.model.generate import sequence_logits
from glm5_hal.model.glm5 import GLM5, Options
from glm5_hal.model.kv_cache import KVCache
from glm5_hal.model.load import load_model
from glm5_hal.model.weights import Moe

# the first releases with this model left the ReLU of the index scores out
transformers = pytest.importorskip("transformers", minversion="5.23")

LENGTHS = (44, 27, 7)
LATENT_EPS = 1e-6  # what transformers fixes it to
TOLERANCE = 2e-5  # of logits with standard deviation 1; a latent epsilon of 1e-5 is beyond it
MARGIN = 1e-5  # scores nearer than this may be ranked either way

CONFIGS: dict[str, dict[str, Any]] = {
    "tiny": {},
    "groups": {"n_group": 4, "topk_group": 2},
    "one group of four": {"n_group": 4, "topk_group": 1, "num_experts_per_tok": 3},
    "shared selection": {"indexer_types": ["full", "shared", "full", "shared"]},
    "selection schedule": {
        "num_hidden_layers": 7,
        "index_topk_freq": 3,
        "index_skip_topk_offset": 3,
    },
    "selection schedule without offset": {"num_hidden_layers": 5, "index_topk_freq": 2},
    "sizes that are no powers of two": {
        "hidden_size": 84,
        "intermediate_size": 130,
        "moe_intermediate_size": 37,
        "num_attention_heads": 5,
        "num_key_value_heads": 5,
        "q_lora_rank": 53,
        "kv_lora_rank": 29,
        "qk_nope_head_dim": 18,
        "qk_rope_head_dim": 6,
        "qk_head_dim": 24,
        "v_head_dim": 22,
        "index_n_heads": 11,
        "index_head_dim": 14,
        "n_routed_experts": 11,
        "vocab_size": 301,
        "eos_token_id": [300],
        "pad_token_id": 300,
    },
    "rope over the whole index head": {"index_head_dim": 8},
    "no dense layer": {"first_k_dense_replace": 0},
    "dense layers only": {"first_k_dense_replace": 4},
    "topk longer than the text": {"index_topk": 64},
    "topk of 3": {"index_topk": 3},
    "topk of 1": {"index_topk": 1},
    "expert weights not normalised": {"norm_topk_prob": False, "routed_scaling_factor": 1.5},
    "two shared experts": {"n_shared_experts": 2},
    "one expert a token": {"num_experts_per_tok": 1},
    "other bases": {"rope_parameters": {"rope_theta": 8e6}, "rms_norm_eps": 1e-3},
    "experts chosen by their bias": {},
}


def _scale_biases(tensors: dict[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if name.endswith("e_score_correction_bias"):
            tensor *= 10


EDITS = {"experts chosen by their bias": _scale_biases}

# Chosen so that no score of a selection or of a routing is near the next: see `MARGIN`.
SEEDS = {
    "sizes that are no powers of two": 1,
    "rope over the whole index head": 1,
    "topk longer than the text": 2,
    "topk of 1": 1,
    "other bases": 1,
}


@dataclass(frozen=True)
class Run:
    """What transformers computed for one sequence.

    Attributes:
        logits: [T, V].
        selected: layer to its top-k, [T, k]; rows with fewer keys than k hold later positions too.
        weights: layer to the weight of each expert, [T, E], 0 where it was not chosen.
    """

    logits: Tensor
    selected: dict[int, Tensor]
    weights: dict[int, Tensor]


def run(model: Any, ids: list[int]) -> Run:
    selected: dict[int, Tensor] = {}
    weights: dict[int, Tensor] = {}

    def attended(layer: int) -> Callable[..., None]:
        return lambda module, given, out: selected.update({layer: out[2][0]})

    def routed(layer: int) -> Callable[..., None]:
        return lambda module, given, out: weights.update({layer: by_expert(out[2], out[1], out[0])})

    hooks = []
    for number, layer in enumerate(model.model.layers):
        hooks.append(layer.self_attn.register_forward_hook(attended(number)))
        if hasattr(layer.mlp, "gate"):
            hooks.append(layer.mlp.gate.register_forward_hook(routed(number)))
    with torch.no_grad():
        logits = model(torch.tensor([ids]), use_cache=False).logits[0]
    for hook in hooks:
        hook.remove()
    return Run(logits, selected, weights)


def by_expert(ids: Tensor, weights: Tensor, logits: Tensor) -> Tensor:
    """Weights [T, E] from the chosen ids and their weights, each [T, k]."""
    return torch.zeros_like(logits).scatter(1, ids.long(), weights)


def read(path: Path) -> Any:
    model, report = transformers.GlmMoeDsaForCausalLM.from_pretrained(
        path,
        attn_implementation="eager",
        experts_implementation="eager",
        dtype=torch.float32,
        output_loading_info=True,
    )
    assert not any(report.values()), report
    return model.eval()


def selection_gap(scores: Tensor, k: int) -> Tensor:
    """By how much each row's k-th best score beats the next, [T]; +Inf where all are taken."""
    if scores.shape[1] <= k:
        return torch.full(scores.shape[:1], torch.inf)
    best = scores.sort(dim=1, descending=True).values
    return torch.where(best[:, k].isinf(), torch.inf, best[:, k - 1] - best[:, k])


def routing_gap(choice: Tensor, config: ModelConfig) -> Tensor:
    """By how much the last chosen expert, and the last group, beat the next, [T]."""
    groups = choice.unflatten(1, (config.n_group, -1))
    gap = torch.full(choice.shape[:1], torch.inf)
    if config.n_group > 1:
        totals = groups.topk(2, dim=-1).values.sum(-1)
        ranked = totals.sort(dim=1, descending=True).values
        gap = ranked[:, config.topk_group - 1] - ranked[:, config.topk_group]
        out = totals < ranked[:, config.topk_group - 1 : config.topk_group]
        choice = groups.masked_fill(out.unsqueeze(-1), -torch.inf).flatten(1)
    return torch.minimum(gap, selection_gap(choice, config.num_experts_per_tok))


@pytest.fixture(scope="module")
def plain_path(new_checkpoint: Callable[..., Path]) -> Path:
    return new_checkpoint(num_nextn_predict_layers=0)


@pytest.fixture(scope="module")
def plain(plain_path: Path, runtime: Runtime) -> tuple[GLM5, Any]:
    """The same weights in our model and in theirs."""
    return load_model(plain_path, runtime, latent_eps=LATENT_EPS), read(plain_path)


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_selections_and_experts(
    name: str,
    new_checkpoint: Callable[..., Path],
    random_ids: Callable[..., list[list[int]]],
    runtime: Runtime,
) -> None:
    keys = CONFIGS[name] | {"num_nextn_predict_layers": 0}
    path = new_checkpoint(edit=EDITS.get(name), seed=SEEDS.get(name, 0), **keys)
    ours, theirs = load_model(path, runtime, latent_eps=LATENT_EPS), read(path)
    config = ours.config
    ids = random_ids(*LENGTHS, vocab=config.vocab_size)
    seen: dict[str, Tensor] = {}
    logits = sequence_logits(ours, ids, probe=seen.__setitem__)
    runs = [run(theirs, sequence) for sequence in ids]

    cut = 0
    for layer in range(config.num_hidden_layers):
        if config.is_full(layer):
            gap = selection_gap(seen[f"layer{layer}.index_scores_masked"], config.index_topk)
            assert gap.min() > MARGIN, "a near tie: choose another seed"
            cut += int(gap.isfinite().sum())
        mine = seen[f"layer{layer}.topk_indices"].split(LENGTHS)
        for rows, other in zip(mine, runs, strict=True):
            for t, (chosen, wide) in enumerate(zip(rows, other.selected[layer], strict=True)):
                visible = sorted(s for s in wide.tolist() if s <= t)
                assert [s for s in chosen.tolist() if s >= 0] == visible, (layer, t)
        mlp = ours.weights.layers[layer].mlp
        if isinstance(mlp, Moe):
            scores = seen[f"layer{layer}.router_logits"]
            gap = routing_gap(scores.sigmoid() + mlp.bias.tensor, config)
            assert gap.min() > MARGIN, "a near tie: choose another seed"
            chosen, factors = (
                seen[f"layer{layer}.router_{part}"] for part in ("indices", "weights")
            )
            weights = by_expert(chosen, factors, scores)
            others = torch.cat([other.weights[layer] for other in runs])
            assert torch.equal(weights > 0, others > 0), layer
            assert (weights - others).abs().max() <= TOLERANCE
    indexers = sum(map(config.is_full, range(config.num_hidden_layers)))
    assert cut == indexers * sum(max(0, length - config.index_topk) for length in LENGTHS)
    assert cut > 30 or name == "topk longer than the text"

    chunked = sequence_logits(ours, ids, chunk=9)
    for row, parts, other in zip(logits, chunked, runs, strict=True):
        assert other.logits.std() > 0.5
        assert (row - other.logits).abs().max() <= TOLERANCE
        assert (parts - other.logits).abs().max() <= TOLERANCE


def test_our_decode_against_their_prefill(
    plain: tuple[GLM5, Any], random_ids: Callable[..., list[list[int]]]
) -> None:
    ours, theirs = plain
    ids = random_ids(*LENGTHS)
    for row, sequence in zip(sequence_logits(ours, ids, chunk=1), ids, strict=True):
        assert (row - run(theirs, sequence).logits).abs().max() <= TOLERANCE


def test_our_prefill_against_their_decode(
    plain: tuple[GLM5, Any], random_ids: Callable[..., list[list[int]]]
) -> None:
    ours, theirs = plain
    [ids] = random_ids(30)
    cache, rows = None, []
    with torch.no_grad():
        for start, stop in [(0, 20), *((i, i + 1) for i in range(20, 30))]:
            out = theirs(torch.tensor([ids[start:stop]]), past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            rows.append(out.logits[0])
    assert (sequence_logits(ours, [ids])[0] - torch.cat(rows)).abs().max() <= TOLERANCE


def test_the_tolerance_tells_the_two_epsilons_apart(
    plain: tuple[GLM5, Any], plain_path: Path, random_ids: Callable[..., list[list[int]]]
) -> None:
    other = load_model(plain_path, plain[0].runtime, latent_eps=1e-5)
    [ids] = random_ids(30)
    difference = sequence_logits(other, [ids])[0] - run(plain[1], ids).logits
    assert difference.abs().max() > TOLERANCE


def test_what_transformers_saves_is_what_it_read(
    plain: tuple[GLM5, Any],
    tmp_path: Path,
    runtime: Runtime,
    random_ids: Callable[..., list[list[int]]],
) -> None:
    ours, theirs = plain
    theirs.save_pretrained(tmp_path)
    again = load_model(tmp_path, runtime, latent_eps=LATENT_EPS)
    assert again.config == ours.config
    [ids] = random_ids(20)
    assert torch.equal(sequence_logits(again, [ids])[0], sequence_logits(ours, [ids])[0])


def one_layer(path: Path, tensors: dict[str, Tensor], target: Path) -> Path:
    """The checkpoint of a model whose only layer is the MTP layer of the one at `path`."""
    mtp = "model.layers.4."
    kept = {
        name.replace(mtp, "model.layers.0."): tensor
        for name, tensor in tensors.items()
        if re.match(r"model\.layers\.4\.(self_attn|mlp|\w+_layernorm)\.", name)
    }
    kept |= {name: tensors[name] for name in ("model.embed_tokens.weight", "lm_head.weight")}
    kept["model.norm.weight"] = tensors[f"{mtp}shared_head.norm.weight"]
    keys = {"num_hidden_layers": 1, "first_k_dense_replace": 0, "num_nextn_predict_layers": 0}
    target.mkdir()
    save_file(kept, target / "model.safetensors", metadata={"format": "pt"})
    published = json.loads((path / "config.json").read_text("utf-8"))
    (target / "config.json").write_text(json.dumps(published | keys), "utf-8")
    return target


@pytest.mark.parametrize("feedback", ["normed", "block"])
def test_the_mtp_layer_against_a_model_of_one_layer(
    feedback: Literal["normed", "block"],
    new_checkpoint: Callable[..., Path],
    tmp_path: Path,
    runtime: Runtime,
    random_ids: Callable[..., list[list[int]]],
) -> None:
    """transformers has no MTP layer, but behind the join it is a decoder layer like others."""
    path = new_checkpoint(seed=2)
    options = Options(mtp_feedback=feedback)
    ours = load_model(path, runtime, latent_eps=LATENT_EPS, options=options)
    [ids] = random_ids(41)
    cache = KVCache(ours.config, runtime, tokens=40, sequences=1, dtype=torch.float32, mtp=True)
    step = cache.append([(cache.add(), ids[:-1])])
    hidden = ours.forward(step, cache)
    following = torch.tensor(ids[1:], dtype=torch.int32)
    draft = ours.draft(replace(step, ids=following), hidden, cache)

    tensors = load_file(path / "model.safetensors")
    token = rms_norm(tensors["model.embed_tokens.weight"][ids[1:]], tensors, "enorm")
    state = rms_norm(hidden, tensors, "hnorm")
    joined = torch.cat((token, state), dim=-1) @ tensors["model.layers.4.eh_proj.weight"].T
    theirs = read(one_layer(path, tensors, tmp_path / "one"))
    blocks: list[Tensor] = []
    theirs.model.layers[0].register_forward_hook(lambda *call: blocks.append(call[2][0][0]))
    with torch.no_grad():
        normed = theirs.model(inputs_embeds=joined.unsqueeze(0), use_cache=False)
        logits = theirs.lm_head(normed.last_hidden_state[0])
    assert (ours.logits(draft.hidden) - logits).abs().max() <= TOLERANCE
    fed_back = normed.last_hidden_state[0] if feedback == "normed" else blocks[0]
    assert (draft.feedback - fed_back).abs().max() <= TOLERANCE


def rms_norm(x: Tensor, tensors: dict[str, Tensor], name: str) -> Tensor:
    weight = tensors[f"model.layers.4.{name}.weight"]
    return torch.nn.functional.rms_norm(x, weight.shape, weight, eps=1e-5)
