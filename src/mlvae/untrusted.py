"""Files from elsewhere: bounded before they are believed, and an error of ours whatever is wrong with them.

Every file that this package reads is data. None of them can name code that is then run; `SECURITY.md` says what else
is promised, and `tools/fuzz.py` tries to break it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlvae.errors import DataError, MLVAEError

TEXT = 64 * 2**20
"""Bytes of a description (JSON, YAML) that are read."""

DEPTH = 32
"""How deep a description may be nested."""

EXPANDED = 2**30
"""Bytes that a compressed file may always expand to; beyond them its ratio is looked at."""

RATIO = 100
"""How many times its size a compressed file may expand to, above that."""


@contextmanager
def reading(what: str, path: Any, kind: type[MLVAEError] = DataError, advice: str = "") -> Iterator[None]:
    """Whatever a parser says of a file becomes one error of ours, with the file's name and what to do.

    Parsers of damaged files raise anything, of any library: only what is no `Exception` passes.
    """
    try:
        yield
    except MLVAEError:
        raise
    except Exception as error:
        said = " ".join(str(error).split())[:500] or type(error).__name__
        raise kind(
            f"Expected a whole {what}; {path} cannot be read ({said})."
            f" {advice or 'Was the copy cut off? Use an earlier one.'}"
        ) from error


def plain_json(text: str | bytes) -> Any:
    """The value of a JSON text that is neither too long nor nested too deep.

    Raises:
        ValueError: it is no such text.

    Example:
        >>> plain_json('{"a": [1, 2]}')
        {'a': [1, 2]}
        >>> plain_json("[" * 100 + "]" * 100)
        Traceback (most recent call last):
        ValueError: nested more than 32 deep
    """
    if len(text) > TEXT:
        raise ValueError(f"longer than {TEXT:,} bytes")
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError(f"nested more than {DEPTH} deep") from None
    _check_depth(value)
    return value


def plain_yaml(path: Path) -> Any:
    """The value of a YAML file of plain values: no tags of ours or Python's, no references, neither long nor deep.

    Raises:
        ValueError: it is no such text; of it are also yaml's own errors turned.
    """
    import yaml

    if path.stat().st_size > TEXT:
        raise ValueError(f"longer than {TEXT:,} bytes")
    text = path.read_text(encoding="utf-8")
    depth = 0
    try:
        # A reference may stand for something that holds references: a few lines could mean gigabytes.
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if isinstance(event, yaml.AliasEvent) or depth > DEPTH:
                raise ValueError("it has references (*), or is nested too deep")
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


def check_expansion(expanded: int, path: Path, advice: str) -> None:
    """Raises DataError where a file would expand to far more than it holds."""
    size = path.stat().st_size
    if expanded > EXPANDED and expanded > RATIO * size:
        raise DataError(
            f"Expected {path.name} to expand to at most {RATIO} times its {size:,} bytes; it says {expanded:,}."
            f" {advice}"
        )


def check_array(shape: Any, itemsize: int, held: int) -> None:
    """Raises ValueError where an array of that shape is more than the ``held`` bytes that are there for it."""
    asked = math.prod(int(size) for size in shape) * itemsize
    if any(size < 0 for size in shape) or asked > held:
        raise ValueError(f"an array of shape {shape} needs {asked:,} bytes; there are {held:,}")


def _check_depth(value: Any) -> None:
    level, depth = [value], 0
    while level := [inner for inner in level if isinstance(inner, (list, dict))]:
        depth += 1
        if depth > DEPTH:
            raise ValueError(f"nested more than {DEPTH} deep")
        level = [inner for outer in level for inner in (outer.values() if isinstance(outer, dict) else outer)]
