"""`run`: tokens as they come, text, cost; and everything a user can get wrong."""

import json
import re
import sys
from pathlib import Path
from typing import cast

import pytest
from cli_names import Call, Ids
from tokenizers import Tokenizer

from glm5_hal import open_runtime
from glm5_hal.cli import loading
from glm5_hal.cli.cost import Cost, Rate
from glm5_hal.cli.stream import TextPieces
from glm5_hal.model.generate import Statistics, generate
from glm5_hal.model.load import load_model

RAGGED = [[1, 2, 3, 4, 5], [7, 8, 9]]


@pytest.fixture(scope="module")
def expected(checkpoint: Path) -> list[list[int]]:
    """Three greedy tokens of each of `RAGGED`, by the library."""
    tokens: list[list[int]] = [[], []]
    model = load_model(checkpoint, open_runtime("cpu"))
    for emitted in generate(model, RAGGED, max_new_tokens=3):
        tokens[emitted.sequence] += emitted.tokens
    return tokens


@pytest.fixture
def unloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """No weights may be loaded: what is wrong shows before that."""
    monkeypatch.delattr(loading, "load")


def test_one_sequence_streams_as_a_line(
    call: Call, checkpoint: Path, ids: Ids, expected: list[list[int]]
) -> None:
    result = call("run", checkpoint, "--input-ids", ids(RAGGED[0]), "--max-new-tokens", 3)
    assert result.exit_code == 0
    assert result.stdout == " ".join(map(str, expected[0])) + "\n"
    plan = open_runtime().plan
    patterns = (
        r"backend: cpu \(GLM5_HAL_BACKEND is not set\)",
        r"prompt: 5 tokens in \d+\.\d\d s \([\d,.]+ tokens/s\)",
        r"generation: 2 tokens in \d+\.\d\d s \([\d,.]+ tokens/s\)",
        r"peak memory: host [\d,]+ MiB",
        rf"plan: cpu:0, fast, device cpu, {plan.hash}",
    )
    for pattern, line in zip(patterns, result.stderr.splitlines(), strict=True):
        assert re.fullmatch(pattern, line)


def test_a_batch_streams_line_by_line(
    call: Call, checkpoint: Path, ids: Ids, expected: list[list[int]]
) -> None:
    result = call(
        "run", checkpoint, "--input-ids", ids(RAGGED), "--max-new-tokens", 3, "--chunk", 2
    )
    rows: list[list[int]] = [[], []]
    for line in result.stdout.splitlines():
        row, tokens = line.split(maxsplit=1)
        rows[int(row.strip("[]"))] += map(int, tokens.split())
    assert rows == expected


def test_json_holds_everything(
    call: Call, checkpoint: Path, ids: Ids, expected: list[list[int]]
) -> None:
    result = call(
        *("run", checkpoint, "--input-ids", ids(RAGGED), "--max-new-tokens", 3),
        *("--speculative", 2, "--mla-form", "absorbed", "--json"),
    )
    assert result.exit_code == 0
    document = json.loads(result.stdout)
    assert document["sequences"] == [
        {"prompt_tokens": len(prompt), "tokens": tokens}
        for prompt, tokens in zip(RAGGED, expected, strict=True)
    ]
    assert document["prompt"]["tokens"] == 8
    assert document["generation"]["tokens"] == 4
    assert document["speculative"]["drafted"] >= document["speculative"]["accepted"]
    assert document["peak_memory_bytes"]["host"] > 1 << 20
    assert document["plan"]["hash"] == open_runtime().plan.hash


def test_the_seed_decides_what_is_sampled(call: Call, checkpoint: Path, ids: Ids) -> None:
    def sampled(seed: int) -> str:
        options = ("--temperature", 2.0, "--top-p", 0.99, "--seed", seed, "--max-new-tokens", 2)
        return call("run", checkpoint, "--input-ids", ids([1, 2]), *options).stdout

    assert sampled(1) == sampled(1)
    assert sampled(1) != sampled(2)


def test_other_options_reach_the_model(call: Call, checkpoint: Path, ids: Ids) -> None:
    options = ("--dtype", "bf16", "--latent-eps", 1e-6, "--mla-form", "expanded")
    result = call(
        *("run", checkpoint, "--input-ids", ids([1, 2, 3]), "--max-new-tokens", 1, *options),
        *("--backend", "cpu"),
    )
    assert result.exit_code == 0
    assert "generation: 0 tokens in " in result.stderr


def test_text_in_and_out(call: Call, spelled: Path, expected: list[list[int]]) -> None:
    arguments = ("run", spelled, "--prompt", "w1 w2 w3 w4 w5", "--max-new-tokens", 3)
    words = " ".join(f"w{token}" for token in expected[0])
    assert call(*arguments).stdout == words + "\n"
    (sequence,) = json.loads(call(*arguments, "--json").stdout)["sequences"]
    assert sequence == {"prompt_tokens": 5, "tokens": expected[0], "text": words}


def test_a_batch_shows_text_quoted(
    call: Call, spelled: Path, ids: Ids, expected: list[list[int]]
) -> None:
    result = call("run", spelled, "--input-ids", ids(RAGGED), "--max-new-tokens", 1)
    assert result.stdout.splitlines() == [
        f'[{row}] "w{tokens[0]}"' for row, tokens in enumerate(expected)
    ]


class Bytes:
    """A tokenizer with one token a byte."""

    def decode(self, ids: list[int]) -> str:
        return bytes(ids).decode("utf-8", "replace")


def test_a_character_of_several_tokens_appears_whole() -> None:
    text = "aé语\N{ROCKET}b"
    pieces = TextPieces(cast(Tokenizer, Bytes()))
    shown = [pieces.add((byte,)) for byte in text.encode()]
    assert [piece for piece in shown if piece] == list(text)
    assert pieces.rest() == ""
    assert pieces.add((0xE8,)) == ""
    assert pieces.rest() == "\ufffd"


def test_ids_are_shown_without_the_package(
    call: Call,
    spelled: Path,
    ids: Ids,
    expected: list[list[int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    result = call("run", spelled, "--input-ids", ids(RAGGED[0]), "--max-new-tokens", 1)
    assert result.stdout == f"{expected[0][0]}\n"
    result = call("run", spelled, "--prompt", "w1", "--max-new-tokens", 1)
    assert result.exit_code == 3
    assert "glm5-hal[tokenizer]" in result.stderr


@pytest.mark.usefixtures("unloaded")
class TestMistakes:
    def test_prompt_and_ids(self, call: Call, checkpoint: Path, ids: Ids) -> None:
        for given in ([], ["--prompt", "x", "--input-ids", ids([1])]):
            result = call("run", checkpoint, "--max-new-tokens", 1, *given)
            assert result.exit_code == 2
            assert "either --prompt TEXT or --input-ids FILE.json" in result.stderr

    def test_prompt_without_tokenizer(self, call: Call, checkpoint: Path) -> None:
        result = call("run", checkpoint, "--prompt", "hello", "--max-new-tokens", 1)
        assert result.exit_code == 2
        assert "tokenizer.json" in result.stderr
        assert "--input-ids" in result.stderr

    def test_empty_text(self, call: Call, spelled: Path) -> None:
        result = call("run", spelled, "--prompt", "", "--max-new-tokens", 1)
        assert result.exit_code == 2
        assert "at least one" in result.stderr

    def test_broken_tokenizer(self, call: Call, spelled: Path) -> None:
        (spelled / "tokenizer.json").write_text("{}")
        result = call("run", spelled, "--prompt", "w1", "--max-new-tokens", 1)
        assert result.exit_code == 2
        assert "tokenizer.json is not a tokenizer" in result.stderr

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ([], "holds no sequence"),
            ([[]], "sequence 0 is empty"),
            ([[1], []], "sequence 1 is empty"),
            ({"ids": [1]}, "holds a JSON object"),
            ("1 2 3", "holds a JSON string"),
            ([1, [2]], "place 1 is a JSON list"),
            ([[1], 2], "element 1 is a JSON number 2"),
            ([[1.5]], "place 0 is a JSON number 1.5"),
            ([[True]], "place 0 is a JSON truth value"),
            ([[1, None]], "place 1 is a JSON null"),
            ([["w1"]], "place 0 is a JSON string"),
            ([[1, 512]], "token id 512 at place 1 is outside the vocabulary, 0 to 511"),
            ([[1], [-1]], "sequence 1: token id -1 at place 0 is outside"),
            ([[10**30]], f"token id {10**30} at place 0 is outside"),
            ([[1] * 4096], "4096 tokens and 1 new ones come to 4097"),
        ],
    )
    def test_ids(
        self, call: Call, checkpoint: Path, ids: Ids, content: object, message: str
    ) -> None:
        path = ids(content)
        result = call("run", checkpoint, "--input-ids", path, "--max-new-tokens", 1)
        assert result.exit_code == 2
        assert str(path) in result.stderr
        assert message in result.stderr

    def test_ids_that_are_no_json(self, call: Call, checkpoint: Path, tmp_path: Path) -> None:
        for name, content in (("text", b"1 2 3"), ("bytes", b"\xff\xfe"), ("empty", b"")):
            path = tmp_path / name
            path.write_bytes(content)
            result = call("run", checkpoint, "--input-ids", path, "--max-new-tokens", 1)
            assert result.exit_code == 2
            assert f"{path} is not JSON" in result.stderr

    def test_ids_that_are_no_file(self, call: Call, checkpoint: Path, tmp_path: Path) -> None:
        for path in (tmp_path / "nothing", tmp_path):
            result = call("run", checkpoint, "--input-ids", path, "--max-new-tokens", 1)
            assert result.exit_code == 2
            assert f"{path} cannot be read: " in result.stderr

    @pytest.mark.parametrize(
        ("option", "value", "message"),
        [
            ("--max-new-tokens", "0", "--max-new-tokens"),
            ("--temperature", "-1", "temperature is -1.0, expected a number >= 0"),
            ("--temperature", "nan", "temperature is nan"),
            ("--top-p", "0", "top_p is 0.0, expected a number in (0, 1]"),
            ("--seed", "-1", "--seed"),
            ("--speculative", "-1", "--speculative"),
            ("--chunk", "0", "--chunk"),
            ("--dtype", "fp8", "--dtype"),
            ("--mla-form", "flat", "--mla-form"),
            ("--backend", "no-such", "unknown backend 'no-such'; registered: "),
            ("--device", "0", "No such option"),
        ],
    )
    def test_options(
        self, call: Call, checkpoint: Path, ids: Ids, option: str, value: str, message: str
    ) -> None:
        base = ("run", checkpoint, "--input-ids", ids([1]), "--max-new-tokens", 1)
        result = call(*base, option, value)
        assert result.exit_code == 2
        assert message in result.stderr
        assert result.stdout == ""

    def test_missing_directory(self, call: Call, ids: Ids, tmp_path: Path) -> None:
        result = call("run", tmp_path / "none", "--input-ids", ids([1]), "--max-new-tokens", 1)
        assert result.exit_code == 2
        assert "none does not exist; expected a checkpoint's directory" in result.stderr
        assert "glm5-hal make-checkpoint" in result.stderr

    def test_truncated_weights(self, call: Call, copied: Path, ids: Ids) -> None:
        weights = copied / "model.safetensors"
        content = weights.read_bytes()
        weights.unlink()
        weights.write_bytes(content[: len(content) // 2])
        result = call("run", copied, "--input-ids", ids([1]), "--max-new-tokens", 1)
        assert result.exit_code == 2
        assert "model.safetensors" in result.stderr
        assert "cut short or corrupt" in result.stderr

    def test_wrong_head_size(self, call: Call, copied: Path, ids: Ids) -> None:
        config = json.loads((copied / "config.json").read_text())
        (copied / "config.json").write_text(json.dumps(config | {"qk_nope_head_dim": 32}))
        result = call("run", copied, "--input-ids", ids([1]), "--max-new-tokens", 1)
        assert result.exit_code == 2
        assert "qk_head_dim is 32: expected" in result.stderr

    def test_drafts_without_an_mtp_layer(self, call: Call, tmp_path: Path, ids: Ids) -> None:
        call("make-checkpoint", "tiny", tmp_path / "plain", "--no-mtp")
        result = call(
            *("run", tmp_path / "plain", "--input-ids", ids([1]), "--max-new-tokens", 1),
            *("--speculative", 2),
        )
        assert result.exit_code == 2
        assert "--speculative 2" in result.stderr
        assert "no MTP layer" in result.stderr


def test_latent_eps_must_be_positive(call: Call, checkpoint: Path, ids: Ids) -> None:
    result = call(
        *("run", checkpoint, "--input-ids", ids([1]), "--max-new-tokens", 1, "--latent-eps", 0)
    )
    assert result.exit_code == 2
    assert "latent_norm_eps is 0.0: expected a positive number" in result.stderr


def test_cost_without_drafts_and_with() -> None:
    none = Cost(Rate(3, 0.5), Rate(0, 0.0), Statistics(), None, 3 << 20)
    assert none.lines() == [
        "prompt: 3 tokens in 0.50 s (6.0 tokens/s)",
        "generation: 0 tokens in 0.00 s",
        "drafts: 0 of 0 accepted, 0 steps",
        "peak memory: device 3 MiB",
    ]
    some = Cost(Rate(3, 0.5), Rate(8, 2.0), Statistics(5, 10, 4), None, None)
    assert some.lines()[2:] == ["drafts: 4 of 10 accepted (40.0%), 5 steps", "peak memory: unknown"]
    assert some.to_dict()["speculative"] == {
        "steps": 5,
        "drafted": 10,
        "accepted": 4,
        "acceptance": 0.4,
    }
