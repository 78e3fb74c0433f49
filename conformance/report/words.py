"""Values in words, as sentences and cells of the report hold them."""

from collections.abc import Mapping, Sequence

from glm5_hal.requirements import REQUIREMENTS

NOT_RECORDED = "not recorded"
"""What stands for a value that the manifest does not have."""


def in_words(value: object) -> str:
    """A manifest value in words; empty where there is none."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {in_words(inner)}" for key, inner in sorted(value.items()))
    if isinstance(value, list | tuple):
        return ", ".join(map(in_words, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else str(value)


def counted(number: int, noun: str) -> str:
    """A number of things, as in ``1 case`` and ``1,200 cases``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def listed(names: Sequence[str]) -> str:
    """Names with commas and an ``and`` before the last."""
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


def cut(text: str, most: int) -> str:
    """At most `most` characters of a text, and how long it was."""
    return text if len(text) <= most else f"{text[:most]} … ({len(text):,} characters)"


def time_in_words(value: float) -> str:
    """A time given in seconds."""
    if value >= 90:
        minutes, seconds = divmod(round(value), 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {seconds:02} s"
    return f"{value:.1f} s" if value >= 10 else f"{value:.3g} s"


def requirement_text(requirement: str) -> str:
    """The sentence of a requirement in the contract."""
    known = REQUIREMENTS.get(requirement)
    return known.text if known else "(not a requirement of the contract of this version)"
