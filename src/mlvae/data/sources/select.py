"""Which columns of a table are features, and of what kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from mlvae.errors import DataError, nearest
from mlvae.schema import KINDS

TYPES = ("number", "binary", "category", "time", "vector", "image", "other")
"""What a column may hold, by its type in the file."""

WORDS = ("numbers", "categories", "all")
"""Words that stand for all columns of a type."""


def chosen(asked: str | Sequence[str] | None, types: Mapping[str, str], kept_out: Sequence[str]) -> dict[str, str]:
    """The features of a table, in the order of the table, each with its kind.

    Args:
        asked: names, patterns ("pixel_*"), the words "numbers", "categories" or "all", each with a kind after a colon
            where the type does not say it ("age:count"), or with a minus before it to leave columns out ("-id"); a
            text with commas, or a list. None: all numbers.
        types: of all columns, one of `TYPES`.
        kept_out: columns that patterns and words pass over: the grouping, the split, covariates.

    Raises:
        DataError: a name or pattern fits no column, a kind is unknown, nothing is left, or a feature is a time.

    Example:
        >>> types = {"id": "number", "age": "number", "sex": "category", "ann": "number"}
        >>> chosen("a*,sex,-ann", types, [])
        {'age': 'number', 'sex': 'category'}
        >>> chosen("age:count", types, [])
        {'age': 'count'}
    """
    items = ["numbers"] if asked is None else asked.split(",") if isinstance(asked, str) else list(asked)
    picked: dict[str, str] = {}
    for item in (text.strip() for text in items):
        # A column may have a colon in its name: an exact name wins over a kind.
        text, kind = (item, "") if item in types else _parts(item)
        leave_out = text.startswith("-") and text not in types
        text = text[1:] if leave_out else text
        names = [text] if text in types else _matching(text, types, kept_out)
        if not names and asked is not None:
            raise DataError(
                f"Expected features by column, pattern or type; got {text!r}. {nearest(text, [*types, *WORDS])}"
            )
        if kind and kind not in KINDS:
            raise DataError(f"Expected the kind of {text!r} after the colon; got {kind!r}. {nearest(kind, KINDS)}")
        for name in names:
            if leave_out:
                picked.pop(name, None)
            else:
                picked[name] = kind or types[name]
    ordered = {name: picked[name] for name in types if name in picked}
    for name, kind in ordered.items():
        if kind == "time":
            raise DataError(
                f"Expected numbers or words as features; column {name!r} holds dates or times. Turn them into numbers"
                f" first (hours since a start, hour of the day), or leave it out: --features '...,-{name}'."
            )
        if kind == "other":
            raise DataError(f"Expected numbers or words as features; column {name!r} holds neither. Leave it out.")
    if not ordered:
        known = ", ".join(f"{name!r} ({kind})" for name, kind in types.items())
        raise DataError(
            f"Expected at least one feature; none was found. Name them: features=... (--features). {known}."
        )
    return ordered


def _parts(item: str) -> tuple[str, str]:
    text, _, kind = item.rpartition(":")
    return (text, kind) if text else (item, "")


def _matching(text: str, types: Mapping[str, str], kept_out: Sequence[str]) -> list[str]:
    open_ones = [name for name in types if name not in kept_out]
    if text in WORDS:
        kinds = {"numbers": ("number", "binary"), "categories": ("category",), "all": ("number", "binary", "category")}
        return [name for name in open_ones if types[name] in kinds[text]]
    return [name for name in open_ones if fnmatchcase(name, text)]
