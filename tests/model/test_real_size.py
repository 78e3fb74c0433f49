"""A layer of GLM-5's real size: prefills 4,096 tokens in bf16 and decodes, in bounded memory.

Run with ``pytest -m slow -s tests/model/test_real_size.py`` to see the figures.
"""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from glm5_hal.model.config import ModelConfig
from glm5_hal.model.make_checkpoint import make_checkpoint

PROMPT = 4096
NEW = 4
LAYERS = {
    "dense": {"first_k_dense_replace": 1, "mlp_layer_types": ("dense",)},
    "moe-32-experts": {
        "first_k_dense_replace": 0,
        "mlp_layer_types": ("sparse",),
        "n_routed_experts": 32,
    },
}

RUN = """
import json, resource, sys, time
import glm5_hal
from glm5_hal.model.generate import Sampling, generate
from glm5_hal.model.load import load_model
runtime = glm5_hal.open_runtime("cpu")
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
model = load_model(sys.argv[1], runtime)
loaded, marks, tokens = peak(), [time.perf_counter()], []
for emitted in generate(model, [list(range(int(sys.argv[2])))], max_new_tokens=int(sys.argv[3]),
                        sampling=Sampling(), stop=()):
    marks.append(time.perf_counter())
    tokens += emitted.tokens
print(json.dumps({"loaded_gib": loaded, "peak_gib": peak(), "prefill_s": marks[1] - marks[0],
                  "decode_s": (marks[-1] - marks[1]) / (len(tokens) - 1), "tokens": tokens}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("layer", LAYERS)
def test_layer_of_real_size(layer: str, tmp_path: Path, record_property) -> None:
    config = replace(
        ModelConfig.load("glm5"),
        num_hidden_layers=1,
        indexer_types=("full",),
        num_nextn_predict_layers=0,
        vocab_size=8192,
        eos_token_id=(),
        pad_token_id=None,
        max_position_embeddings=8192,
        **LAYERS[layer],
    )
    directory = tmp_path / "checkpoint"
    make_checkpoint(config, directory, seed=0, dtype="bf16")
    weights = sum(file.stat().st_size for file in directory.glob("*.safetensors")) / 2**30
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(directory), str(PROMPT), str(NEW)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    print(f"\n{layer}: weights {weights:.2f} GiB, {figures}")
    for name, value in figures.items():
        record_property(name, value)
    assert len(figures["tokens"]) == NEW
    # a [T, H, S] float32 score tensor alone would be 4 GiB; a [T, S] one 64 MiB
    assert figures["peak_gib"] < figures["loaded_gib"] + 2.0
