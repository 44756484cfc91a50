"""Data in parts that are encoded one after another: the files of a folder, or stretches of one set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mlvae.data import GroupedData, read
from mlvae.errors import DataError

STRETCH = 2**16
"""Observations in a part of one set."""


@dataclass(frozen=True)
class Part:
    """A piece of the data.

    Args:
        name: the same at every start, so that a restarted job knows it again.
        size: how much of the data it is, in a unit of the whole: bytes of files, or rows.
        stamp: changes when its content does.
        load: reads it.
    """

    name: str
    size: int
    stamp: str
    load: Callable[[], GroupedData]


def parts_of(
    source: str | Path | GroupedData, by: str | None = None, missing: str = "error", **reading: Any
) -> list[Part]:
    """The data in parts.

    Args:
        source: a folder of `.npz` files, each a part that fits in memory; or whatever `read` takes.
        by: the grouping column.
        missing: what to do with rows without a group, as in `read`; "own" only for one set.
        reading: further arguments of `read`.

    Raises:
        DataError: "own" for a folder, or as `read`.
    """
    folder = None if isinstance(source, GroupedData) else Path(source)
    files = sorted(folder.rglob("*.npz")) if folder is not None and folder.is_dir() else []
    if files and missing == "own":
        raise DataError(
            "Expected missing='error' or 'drop' for a folder of files: groups of their own would have the same names"
            " in several files. Drop them, or name them."
        )
    if folder is not None and files:
        return [
            Part(
                str(file.relative_to(folder)),
                file.stat().st_size,
                _stamp(file),
                partial(read, file, by, missing=missing, **reading),
            )
            for file in files
        ]
    data = read(source, by, missing=missing, **reading)
    stamp = "" if folder is None else _stamp(folder)
    return [
        Part(f"{start:012}", min(STRETCH, len(data) - start), stamp, _stretch(data, start))
        for start in range(0, len(data), STRETCH)
    ]


def _stamp(path: Path) -> str:
    return f"{path.stat().st_mtime_ns}" if path.exists() else ""  # a built-in set is no file


def _stretch(data: GroupedData, start: int) -> Callable[[], GroupedData]:
    return lambda: data.subset(slice(start, start + STRETCH))
