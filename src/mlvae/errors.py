"""What goes wrong, said so that the reader knows what to type next.

Every message has three parts: what was expected, what came, what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class MLVAEError(Exception):
    """The parent of every error that this package raises on purpose."""


class DataError(MLVAEError, ValueError):
    """The data do not have the shape, type, range or labels that were expected."""


class ModelError(MLVAEError, ValueError):
    """A model was asked for something it does not have, or was described inconsistently."""


class EvidenceError(MLVAEError, ValueError):
    """Evidence was empty, of another layout, or used where it has no meaning."""


class CheckpointError(MLVAEError, ValueError):
    """A saved file is damaged, of another version, or in the way."""


class TrainingError(MLVAEError, RuntimeError):
    """Training cannot go on; what was saved before is intact."""


class ExportError(MLVAEError, RuntimeError):
    """A model cannot be written for another runtime, or would give other numbers there."""


class MissingExtraError(MLVAEError, ImportError):
    """An optional package is needed; the message names the extra that brings it."""


def row(number: int) -> str:
    """Names a row of what was read, or of an array.

    Example:
        >>> row(13)
        'row 13 (the first is 0)'
    """
    return f"row {number} (the first is 0)"


def nearest(name: str, known: Iterable[str]) -> str:
    """Ends an error message with the nearest known name, or with all of them.

    Example:
        >>> nearest("contnet", ["content", "style"])
        "Did you mean 'content'?"
        >>> nearest("x", ["content", "style"])
        "Known: 'content', 'style'."
        >>> nearest("x", [])
        'There is none.'
    """
    known = list(known)
    if not known:
        return "There is none."
    match = difflib.get_close_matches(name, known, n=1)
    if match:
        return f"Did you mean {match[0]!r}?"
    return "Known: " + ", ".join(repr(k) for k in known) + "."
