"""Folders of ``.npz`` files, each a part of a job, whose labels must name the same groups in all of them.

A column that is 1.0, 2.5 in one file and 1, 2 in another would have groups "1.0" and "1", were each file read alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from mlvae.data import GroupedData
from mlvae.data.arrays import settle
from mlvae.data.sources import arrays, grouping_column
from mlvae.data.sources.raw import Asked
from mlvae.errors import DataError
from mlvae.store.stretches import Load, grouped


def of_archives(files: Sequence[Path], asked: Asked, missing: str, keys: Sequence[str]) -> list[Load]:
    """What reads each file, which gives None also where it is bad and passed over.

    Args:
        files: with the same columns.
        asked: how to read.
        missing: "error" or "drop" rows without a label.
        keys: further columns that must have labels.

    Raises:
        DataError: labels that name groups are words in one file and numbers in another.
    """
    odd: list[str] = []
    types = _label_types(files, asked, keys, odd)

    @cache
    def whole(column: str) -> bool:
        return all(_whole_in(file, column) for file, kind in types.get(column, {}).items() if kind.kind == "f")

    def load(file: Path) -> GroupedData | None:
        if str(file) in odd:
            return None
        try:
            raw = arrays.npz(file, asked)
        except DataError as bad:
            asked.skip(bad, str(file), [])
            return None
        columns = {
            name: _decimals(values, name, file) if name in types and values.dtype.kind in "iu" and not whole(name)
            else values
            for name, values in raw.columns.items()
        }  # fmt: skip
        # Whether the model knows gaps is asked where it sees them.
        return grouped(replace(raw, columns=columns, gaps=True), asked, missing, keys, whole)

    return [partial(load, file) for file in files]


def _label_types(
    files: Sequence[Path], asked: Asked, keys: Sequence[str], odd: list[str]
) -> dict[str, dict[Path, np.dtype[Any]]]:
    """By column that names groups its type in each file. A damaged one is told of when it is read; one of another type
    than the first is bad, and put among the ``odd`` ones where bad ones are passed over."""
    types: dict[str, dict[Path, np.dtype[Any]]] = {}
    for file in files:
        try:
            found = arrays.npz_types(file)
            count = found[asked.x][0][:1] if asked.x in found else ()
            columns = {name: kind for name, (shape, kind) in found.items() if shape == count and name != asked.x}
            by = grouping_column(asked.by, columns, {}, sum(count), file.name, asked.usual)
        except DataError:
            continue
        for name in dict.fromkeys([by, *keys]):
            known, kind = types.setdefault(name, {}), columns.get(name)
            if kind is None:
                continue
            first = next(iter(known), file)
            if (expected := _sort(known.get(first, kind))) == (came := _sort(kind)):
                known[file] = kind
                continue
            bad = DataError(
                f"Expected {expected} in column {name!r} of {file}, as in {first.name}; got {came}. Write it with one"
                " type in all files."
            )
            asked.skip(bad, str(file), odd)
    return types


def _sort(kind: np.dtype[Any]) -> str:
    """What labels of a type are, in words; those of two sorts would not name the same groups."""
    if kind.kind in "US":
        return "text"
    return "numbers" if kind.kind in "iuf" and kind != np.uint64 else str(kind)  # evidence keeps uint64 as text


def _whole_in(file: Path, column: str) -> bool:
    """Whether all labels of a column of decimals are whole numbers."""
    try:
        labels = arrays.read_npz(file, {column})[column]
    except DataError:
        return True  # told, or passed over, when it is read
    return settle(labels, column, "drop")[0].dtype.kind == "i"


def _decimals(labels: np.ndarray[Any, Any], column: str, file: Path) -> np.ndarray[Any, Any]:
    """Whole numbers as they are where another file has decimals between them."""
    decimals = labels.astype(np.float64)
    if len(labels) and np.abs(decimals).max() >= 2**53:
        raise DataError(
            f"Expected whole numbers below 2**53 in column {column!r} of {file}, as another file has decimals there,"
            " which cannot tell larger ones apart. Write the labels as text in all files."
        )
    return decimals
