"""What a user hands in: a checkpoint's directory, token ids, text. Checked before weights load."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glm5_hal.cli.failures import CommandError, ExitCode

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from glm5_hal.model.config import ModelConfig

TOKENIZER_FILE = "tokenizer.json"
_FORM = "expected a JSON list of lists of token ids, such as [[1, 2, 3], [4, 5]]"


@dataclass(frozen=True)
class Header:
    """What a checkpoint says of itself before any weight is read."""

    config: "ModelConfig"
    has_mtp: bool


def read_header(directory: Path) -> Header:
    """Open a checkpoint and close it again: every defect shows before the weights are loaded."""
    if not directory.is_dir():
        found = "is not a directory" if directory.exists() else "does not exist"
        raise CommandError(
            f"{directory} {found}; expected a checkpoint's directory. "
            f"`glm5-hal make-checkpoint tiny {directory.name}` writes a random one."
        )
    from glm5_hal.model.checkpoint import Checkpoint

    with Checkpoint.open(directory) as checkpoint:
        return Header(checkpoint.config, checkpoint.has_mtp)


def read_ids(path: Path) -> list[list[int]]:
    """Sequences of token ids from a JSON file; a flat list of ids is one sequence."""
    try:
        content: Any = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise CommandError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:  # broken JSON, or no text at all
        raise CommandError(f"{path} is not JSON ({error}); {_FORM}") from None
    if not isinstance(content, list):
        raise CommandError(f"{path} holds a JSON {_kind(content)}; {_FORM}")
    if not content:
        raise CommandError(f"{path} holds no sequence; {_FORM}")
    sequences = content if isinstance(content[0], list) else [content]
    for row, sequence in enumerate(sequences):
        if not isinstance(sequence, list):
            raise CommandError(f"{path}: element {row} is a JSON {_kind(sequence)}; {_FORM}")
        if not sequence:
            raise CommandError(f"{path}: sequence {row} is empty; the model needs at least one id")
        for place, token in enumerate(sequence):
            if type(token) is not int:
                where = f"sequence {row}, place {place}"
                raise CommandError(f"{path}: {where} is a JSON {_kind(token)}; {_FORM}")
    return sequences


def _kind(value: object) -> str:
    names = {dict: "object", list: "list", str: "string", bool: "truth value", type(None): "null"}
    return names.get(type(value), f"number {value}")


def check_ids(
    config: "ModelConfig", sequences: Sequence[Sequence[int]], source: str, new_tokens: int = 0
) -> None:
    """Refuse ids outside the vocabulary and sequences beyond the model's longest."""
    for row, sequence in enumerate(sequences):
        for place, token in enumerate(sequence):
            if not 0 <= token < config.vocab_size:
                raise CommandError(
                    f"{source}: sequence {row}: token id {token} at place {place} is outside the "
                    f"vocabulary, 0 to {config.vocab_size - 1}"
                )
        length = len(sequence) + new_tokens
        if length > config.max_position_embeddings:
            more = f" and {new_tokens} new ones come to {length}" if new_tokens else ""
            raise CommandError(
                f"{source}: sequence {row}: {len(sequence)} tokens{more}; the model's longest "
                f"sequence (max_position_embeddings) is {config.max_position_embeddings}"
            )


def open_tokenizer(directory: Path) -> "Tokenizer | None":
    """The checkpoint's tokenizer; None without the file or the package `tokenizers`."""
    path = directory / TOKENIZER_FILE
    if not path.is_file():
        return None
    try:
        from tokenizers import Tokenizer
    except ImportError:
        return None
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the package raises nothing narrower
        raise CommandError(f"{path} is not a tokenizer that can be read: {error}") from None


def encode(tokenizer: "Tokenizer | None", directory: Path, text: str) -> list[int]:
    """The token ids of a prompt."""
    if tokenizer is None:
        path = directory / TOKENIZER_FILE
        if path.is_file():
            raise CommandError(
                "--prompt needs the package tokenizers: install glm5-hal[tokenizer], "
                "or give token ids with --input-ids",
                ExitCode.UNUSABLE,
            )
        raise CommandError(f"--prompt needs {path}; without it, give token ids with --input-ids")
    ids: list[int] = tokenizer.encode(text).ids
    if not ids:
        raise CommandError("--prompt has no tokens; the model needs at least one")
    return ids
