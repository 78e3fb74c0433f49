"""Showing tokens as they come, as text where there is a tokenizer."""

import json
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from glm5_hal.model.generate import Emitted


class TextPieces:
    """Turns token ids into text piece by piece.

    A token may hold a part of a character, and what stands before a token decides how it is
    spelled; so each piece is what the last few tokens' text has more than it had before.
    """

    def __init__(self, tokenizer: "Tokenizer") -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._start = 0  # tokens before it are spelled out, and needed no more
        self._shown = 0

    def add(self, tokens: tuple[int, ...]) -> str:
        """The text that these tokens complete."""
        self._ids += tokens
        more = self._unseen()
        if not more or more.endswith("\ufffd"):  # the rest of a character is still to come
            return ""
        self._start, self._shown = self._shown, len(self._ids)
        return more

    def rest(self) -> str:
        """What is left at the end: an incomplete character."""
        return self._unseen()

    def _unseen(self) -> str:
        before = self._decode(self._ids[self._start : self._shown])
        return self._decode(self._ids[self._start :])[len(before) :]

    def _decode(self, ids: list[int]) -> str:
        text: str = self._tokenizer.decode(ids)
        return text


class Stream:
    """Prints one sequence as running text, and of several each piece on its own line.

    Args:
        sequences: how many there are.
        tokenizer: None shows token ids.
        silent: only collect.
    """

    def __init__(self, sequences: int, tokenizer: "Tokenizer | None", silent: bool) -> None:
        self.tokens: list[list[int]] = [[] for _ in range(sequences)]
        self._silent = silent
        self._texts = [TextPieces(tokenizer) for _ in range(sequences)] if tokenizer else None

    def take(self, emitted: "Emitted") -> None:
        """Show new tokens of a sequence."""
        first = not self.tokens[emitted.sequence]
        self.tokens[emitted.sequence] += emitted.tokens
        if self._silent:
            return
        if self._texts is not None:
            self._show_text(emitted.sequence, self._texts[emitted.sequence].add(emitted.tokens))
            return
        ids = " ".join(map(str, emitted.tokens))
        if len(self.tokens) > 1:
            typer.echo(f"[{emitted.sequence}] {ids}")
        else:
            typer.echo(ids if first else f" {ids}", nl=False)

    def close(self) -> None:
        """Show what is left and end the line."""
        if self._silent:
            return
        for row, text in enumerate(self._texts or ()):
            self._show_text(row, text.rest())
        if len(self.tokens) == 1:
            typer.echo()

    def _show_text(self, row: int, piece: str) -> None:
        if len(self.tokens) == 1:
            typer.echo(piece, nl=False)
        elif piece:
            typer.echo(f"[{row}] {json.dumps(piece, ensure_ascii=False)}")
