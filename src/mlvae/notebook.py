"""How objects show themselves in a notebook: a short table, nothing that needs a style sheet or a script."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

MOST = 8
"""Rows that are shown; the rest is counted."""


def table(caption: str, head: Sequence[str], rows: Iterable[Sequence[object]], count: int) -> str:
    """An HTML table of the first rows.

    Args:
        caption: what it is.
        head: a word a column.
        rows: cells; floats are shown with three digits. Only the first eight are asked for.
        count: how many rows there are.

    Example:
        >>> table("votes", ["group", "count"], [["ann", 3]], 1)
        '<table><caption>votes</caption><thead><tr><th>group</th><th>count</th></tr></thead><tbody><tr><td>ann</td><td>3</td></tr></tbody></table>'
    """
    shown = [row for row, _ in zip(rows, range(MOST), strict=False)]
    body = "".join("<tr>" + "".join(f"<td>{_cell(value)}</td>" for value in row) + "</tr>" for row in shown)
    if count > len(shown):
        body += f'<tr><td colspan="{len(head)}">and {count - len(shown):,} more</td></tr>'
    top = "".join(f"<th>{escape(word)}</th>" for word in head)
    return f"<table><caption>{escape(caption)}</caption><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def _cell(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else escape(str(value))
