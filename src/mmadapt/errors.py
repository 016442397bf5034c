"""Errors that a user can act on: what was wrong, where we looked, what to type."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake in the input; shown as one message without a traceback, exit code 1."""


class DataNotFoundError(UserError, FileNotFoundError):
    """A data set or a file of it is not where it was looked for."""


def did_you_mean(word: str, accepted: Iterable[str]) -> str:
    """Return ``" (did you mean 'x'?)"`` for the closest accepted word, or an empty string."""
    close = difflib.get_close_matches(word, list(accepted), n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""


def some(items: Iterable[object], limit: int = 5) -> str:
    """Return the first items, comma-separated, and whether there are more."""
    texts = [str(item) for item in items]
    return ", ".join(texts[:limit]) + (", …" if len(texts) > limit else "")


def one_of(key: str, value: object, accepted: Iterable[str]) -> None:
    """Refuse a word that is not among the accepted ones.

    Raises:
        UserError: Naming the key, the word, the nearest accepted one and all of them.
    """
    words = list(accepted)
    if value not in words:
        listed = " or ".join(filter(None, [", ".join(words[:-1]), words[-1]]))
        raise UserError(f"{key}={value!r} is unknown{did_you_mean(str(value), words)}. Use {listed}.")
