"""GLM-5's hyper-parameters, under their published names and checked all at once.

The names are those of the published `config.json` (model_type `glm_moe_dsa`), so a field here and
a key there are one word. Three fields are derived, in the ways that published configurations
differ: `indexer_types`, `mlp_layer_types` and `rope_theta`.
"""

from __future__ import annotations

import json
import reprlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args, get_type_hints

IndexerType = Literal["full", "shared"]
MlpType = Literal["dense", "sparse"]


class ConfigError(ValueError):
    """A configuration that GLM-5 cannot be built from.

    `problems` holds every problem found, one line each: the key, its value, what was expected.
    """

    def __init__(self, problems: Sequence[str], source: str = "configuration") -> None:
        self.problems = tuple(problems)
        count = f"{len(self.problems)} problem{'s' if len(self.problems) > 1 else ''}"
        super().__init__("\n  ".join([f"{source}: {count}", *self.problems]))


@dataclass(frozen=True)
class _Kind:
    """What one value must be: the words for it, and the test."""

    expected: str
    accepts: Callable[[Any], bool]


@dataclass(frozen=True)
class _Rule:
    """What several values must be together; the report names the first key."""

    keys: tuple[str, ...]
    holds: Callable[..., bool]
    expected: str


def _is_int(value: Any, least: int) -> bool:
    # JSON's true is an int to Python, and not one to us.
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_number(value: Any) -> bool:
    # NaN fails the comparison, and so does an integer that is too large for a float.
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and abs(value) <= sys.float_info.max


def _is_tuple(value: Any, accepts: Callable[[object], bool]) -> bool:
    return isinstance(value, tuple) and all(map(accepts, value))


def _one_of(*choices: object) -> Callable[[object], bool]:
    return lambda value: value in choices


_COUNT = _Kind("a positive integer", lambda v: _is_int(v, 1))
_WHOLE = _Kind("an integer, 0 or more", lambda v: _is_int(v, 0))
_POSITIVE = _Kind("a positive number", lambda v: _is_number(v) and v > 0)
_ZERO_OR_ONE = _Kind("0 or 1", lambda v: _is_int(v, 0) and v <= 1)
_FLAG = _Kind("true or false", lambda v: isinstance(v, bool))
_DTYPE = _Kind("'bfloat16' or 'float32'", _one_of("bfloat16", "float32"))
_TOKEN = _Kind("a token id or null", lambda v: v is None or _is_int(v, 0))
_TOKENS = _Kind("a token id or a list", lambda v: _is_tuple(v, lambda token: _is_int(token, 0)))
_INDEXERS = _Kind(
    "a list of 'full' and 'shared'", lambda v: _is_tuple(v, _one_of(*get_args(IndexerType)))
)
_MLPS = _Kind("a list of 'dense' and 'sparse'", lambda v: _is_tuple(v, _one_of(*get_args(MlpType))))

Count = Annotated[int, _COUNT]
Positive = Annotated[float, _POSITIVE]
Flag = Annotated[bool, _FLAG]


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The hyper-parameters of one model of the GLM-5 family.

    Widths count elements, and layers count from 0. Where a field has a default, a published
    configuration may leave its key out. Raises `ConfigError`, listing every value that is wrong
    by itself or beside another.
    """

    vocab_size: Count
    hidden_size: Count
    num_hidden_layers: Count
    first_k_dense_replace: Annotated[int, _WHOLE]
    intermediate_size: Count
    moe_intermediate_size: Count
    num_attention_heads: Count
    q_lora_rank: Count
    kv_lora_rank: Count
    qk_nope_head_dim: Count
    qk_rope_head_dim: Count
    v_head_dim: Count
    n_routed_experts: Count
    n_shared_experts: Count
    num_experts_per_tok: Count
    n_group: Count = 1
    topk_group: Count = 1
    norm_topk_prob: Flag = True
    routed_scaling_factor: Positive
    index_n_heads: Count
    index_head_dim: Count
    index_topk: Count
    indexer_types: Annotated[tuple[IndexerType, ...], _INDEXERS]
    """One entry a layer: "full" chooses the keys, "shared" reuses the last full layer's choice."""
    mlp_layer_types: Annotated[tuple[MlpType, ...], _MLPS]
    """One entry a layer. Where `first_k_dense_replace` disagrees, this list is the model."""
    rope_theta: Positive
    max_position_embeddings: Count
    rms_norm_eps: Positive
    latent_norm_eps: Positive = 1e-5
    """Epsilon of `q_a_layernorm` and `kv_a_layernorm`, which no published configuration states.

    slime, which trains the model, and vLLM use 1e-5; transformers uses 1e-6.
    """
    initializer_range: Positive = 0.02
    num_nextn_predict_layers: Annotated[int, _ZERO_OR_ONE] = 0
    index_share_for_mtp_iteration: Flag = False
    eos_token_id: Annotated[tuple[int, ...], _TOKENS] = ()
    pad_token_id: Annotated[int | None, _TOKEN] = None
    dtype: Annotated[str, _DTYPE] = "bfloat16"
    rope_interleave: Flag = True
    indexer_rope_interleave: Flag = True

    def __post_init__(self) -> None:
        if problems := _problems(vars(self)):
            raise ConfigError(problems)

    @property
    def qk_head_dim(self) -> int:
        """Width of one query or key head: the part without RoPE, then the part with it."""
        return self.qk_nope_head_dim + self.qk_rope_head_dim

    @property
    def mtp_layer(self) -> int:
        """Index of the multi-token-prediction layer, which follows the last hidden layer."""
        return self.num_hidden_layers

    def is_sparse(self, layer: int) -> bool:
        """Whether this layer's MLP is a mixture of experts; the MTP layer's always is."""
        return layer == self.mtp_layer or self.mlp_layer_types[layer] == "sparse"

    def is_full(self, layer: int) -> bool:
        """Whether this layer has an indexer of its own; the MTP layer always has."""
        return layer == self.mtp_layer or self.indexer_types[layer] == "full"

    @classmethod
    def load(cls, name_or_path: str | Path) -> Self:
        """Reads a bundled configuration by name, a `config.json`, or the directory that holds one.

        Raises `ConfigError` if there is no such configuration, or it is not a valid one.
        """
        bundled = resources.files("glm5_hal.model") / "configs"
        files = (Path(entry.name) for entry in bundled.iterdir())
        names = sorted(file.stem for file in files if file.suffix == ".json")
        if name_or_path in names:
            text = (bundled / f"{name_or_path}.json").read_text("utf-8")
            return cls.from_dict(json.loads(text))
        path = Path(name_or_path)
        path = path / "config.json" if path.is_dir() else path
        if not path.is_file():
            known = f"a file, a directory with config.json, or one of {', '.join(names)}"
            raise ConfigError([f"there is no such configuration: expected {known}"], str(path))
        try:
            return cls.from_dict(json.loads(path.read_text("utf-8")))
        except ConfigError as error:
            raise ConfigError(error.problems, str(path)) from None
        except ValueError as error:
            raise ConfigError([f"not JSON: {error}"], str(path)) from None

    @classmethod
    def from_dict(cls, published: Mapping[str, Any]) -> Self:
        """Reads a published configuration: null counts as absent, and unknown keys pass by.

        Raises `ConfigError`, listing every missing key, wrong value and unsupported choice.
        """
        if not isinstance(published, Mapping):
            raise ConfigError([f"{_shown(published)}: expected a JSON object"])
        given = {key: value for key, value in published.items() if value is not None}
        problems = [
            f"{key} is {_shown(given[key])}: expected {supported!r}"
            for key, supported in _SUPPORTED.items()
            if key in given and given[key] != supported
        ]
        if "model_type" not in given:
            problems.append(f"model_type is missing: expected {_SUPPORTED['model_type']!r}")
        values = {key: _from_json(key, given[key]) for key in _KINDS if key in given}
        if "dtype" not in values and "torch_dtype" in given:
            values["dtype"] = given["torch_dtype"]
        problems += _take_rope(given, values)
        _derive_layer_types(given, values)
        # A list of layer types is absent only where the key it derives from is reported.
        reported = values.keys() | {"indexer_types", "mlp_layer_types"}
        problems += [
            f"{field.name} is missing: expected {_KINDS[field.name].expected}"
            for field in fields(cls)
            if field.default is MISSING and field.name not in reported
        ]
        problems += _problems(values)
        if problems:
            raise ConfigError(problems)
        return cls(**{f.name: values[f.name] for f in fields(cls) if f.name in values})

    def to_published_dict(self) -> dict[str, Any]:
        """The configuration as a published `config.json`; `latent_norm_eps` has no key there."""
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "latent_norm_eps"}
        rope = {"rope_type": "default", "rope_theta": own.pop("rope_theta")}
        return {
            "architectures": ["GlmMoeDsaForCausalLM"],
            **_SUPPORTED,
            **{key: list(v) if isinstance(v, tuple) else v for key, v in own.items()},
            "num_key_value_heads": self.num_attention_heads,
            "qk_head_dim": self.qk_head_dim,
            "rope_parameters": rope,
        }


# The only choices that GLM-5 makes; a key that is absent makes the same one.
_SUPPORTED: dict[str, object] = {
    "model_type": "glm_moe_dsa",
    "hidden_act": "silu",
    "scoring_func": "sigmoid",
    "topk_method": "noaux_tc",
    "attention_bias": False,
    "mlp_bias": False,
    "tie_word_embeddings": False,
}

_KINDS: dict[str, _Kind] = {
    **{
        name: hint.__metadata__[0]
        for name, hint in get_type_hints(ModelConfig, include_extras=True).items()
    },
    # Keys that are not fields, but repeat or decide one.
    "qk_head_dim": _COUNT,
    "num_key_value_heads": _COUNT,
    "moe_layer_freq": _COUNT,
    "index_topk_freq": _COUNT,
    "index_skip_topk_offset": _WHOLE,
}

_RULES = (
    _Rule(
        ("qk_head_dim", "qk_nope_head_dim", "qk_rope_head_dim"),
        lambda head, nope, rope: head == nope + rope,
        "qk_nope_head_dim + qk_rope_head_dim = {1} + {2}",
    ),
    _Rule(
        ("num_key_value_heads", "num_attention_heads"),
        lambda kv, heads: kv == heads,
        "num_attention_heads = {1}",
    ),
    _Rule(("qk_rope_head_dim",), lambda rope: rope % 2 == 0, "an even number: RoPE turns pairs"),
    _Rule(
        ("index_head_dim", "qk_rope_head_dim"),
        lambda head, rope: head >= rope,
        "at least qk_rope_head_dim = {1}",
    ),
    _Rule(
        ("n_group", "n_routed_experts"),
        lambda groups, experts: experts % groups == 0,
        "a divisor of n_routed_experts = {1}",
    ),
    _Rule(
        ("n_group", "n_routed_experts"),
        lambda groups, experts: groups == 1 or experts >= 2 * groups,
        "at most half of n_routed_experts = {1}: a group is scored by its best two",
    ),
    _Rule(("topk_group", "n_group"), lambda top, groups: top <= groups, "at most n_group = {1}"),
    _Rule(
        ("num_experts_per_tok", "n_routed_experts", "topk_group", "n_group"),
        lambda top, experts, chosen, groups: top * groups <= experts * min(chosen, groups),
        "at most the experts of topk_group = {2} of n_group = {3} groups, of {1} experts in all",
    ),
    _Rule(
        ("indexer_types", "num_hidden_layers"),
        lambda types, layers: len(types) == layers,
        "one entry for each of num_hidden_layers = {1}",
    ),
    _Rule(
        ("indexer_types",),
        lambda types: types[:1] != ("shared",),
        "'full' first: the first layer has no earlier choice to share",
    ),
    _Rule(
        ("mlp_layer_types", "num_hidden_layers"),
        lambda types, layers: len(types) == layers,
        "one entry for each of num_hidden_layers = {1}",
    ),
    _Rule(
        ("eos_token_id", "vocab_size"),
        lambda tokens, vocab: all(token < vocab for token in tokens),
        "ids below vocab_size = {1}",
    ),
    _Rule(
        ("pad_token_id", "vocab_size"),
        lambda token, vocab: token is None or token < vocab,
        "an id below vocab_size = {1}",
    ),
)


def _problems(values: Mapping[str, Any]) -> list[str]:
    """Every value of the wrong kind, then every rule broken among the values of the right kind."""
    sound = {key: value for key, value in values.items() if _KINDS[key].accepts(value)}
    problems = [
        f"{key} is {_shown(values[key])}: expected {_KINDS[key].expected}"
        for key in values
        if key not in sound
    ]
    for rule in _RULES:
        operands = [sound[key] for key in rule.keys if key in sound]
        if len(operands) == len(rule.keys) and not rule.holds(*operands):
            expected = rule.expected.format(*operands)
            problems.append(f"{rule.keys[0]} is {_shown(operands[0])}: expected {expected}")
    return problems


def _shown(value: object) -> str:
    """A value for an error line: cut short where it is long, and of a list the length is said."""
    if isinstance(value, list | tuple):
        return f"{reprlib.repr(list(value))} (length {len(value)})"
    return reprlib.repr(value)


def _from_json(key: str, value: Any) -> Any:
    """JSON has no tuples, may write 1000000.0 as 1000000, and may give one token id bare."""
    if key == "eos_token_id" and _is_int(value, 0):
        return (value,)
    if isinstance(value, list):
        return tuple(value)
    return float(value) if _KINDS[key] is _POSITIVE and _is_number(value) else value


def _take_rope(given: Mapping[str, Any], values: dict[str, Any]) -> list[str]:
    """Takes the RoPE base from `rope_parameters`, if it is not the older top-level key."""
    problems = []
    for key in ("rope_parameters", "rope_scaling"):
        rope = given.get(key, {})
        if not isinstance(rope, Mapping):
            problems.append(f"{key} is {_shown(rope)}: expected a JSON object")
            continue
        rope_type = rope.get("rope_type", rope.get("type", "default"))
        if rope_type != "default":
            problems.append(f"{key}.rope_type is {_shown(rope_type)}: expected 'default'")
        if rope.get("rope_theta") is not None:
            values["rope_theta"] = _from_json("rope_theta", rope["rope_theta"])
    return problems


def _derive_layer_types(given: Mapping[str, Any], values: dict[str, Any]) -> None:
    """Derives the lists of layer types that are not given, from keys that are sound.

    The schedules are transformers'. Its offset is 2 where the key is absent; GLM-5.2 gives 3.
    """

    def sound(key: str, absent: int | None = None) -> Any:
        value = values.get(key, absent)
        return value if value is not None and _KINDS[key].accepts(value) else None

    layers = sound("num_hidden_layers")
    freq, offset = sound("index_topk_freq", 1), sound("index_skip_topk_offset", 2)
    first_k, moe_freq = sound("first_k_dense_replace"), sound("moe_layer_freq", 1)
    if "indexer_types" not in values:
        if (pattern := given.get("index_topk_pattern")) is not None:
            values["indexer_types"] = _from_pattern(pattern)
        elif None not in (layers, freq, offset):
            values["indexer_types"] = tuple(
                "shared" if max(layer - offset + 1, 0) % freq else "full" for layer in range(layers)
            )
    if "mlp_layer_types" not in values:
        if None not in (layers, first_k, moe_freq):
            values["mlp_layer_types"] = tuple(
                "sparse" if layer >= first_k and layer % moe_freq == 0 else "dense"
                for layer in range(layers)
            )
    elif "first_k_dense_replace" not in values and (types := sound("mlp_layer_types")):
        values["first_k_dense_replace"] = (*types, "sparse").index("sparse")


def _from_pattern(pattern: Any) -> Any:
    """`indexer_types` from a list, or from a string of one F or S a layer."""
    letters = {"F": "full", "S": "shared"}
    if isinstance(pattern, str):
        return tuple(letters.get(letter, letter) for letter in pattern)
    return _from_json("indexer_types", pattern)
