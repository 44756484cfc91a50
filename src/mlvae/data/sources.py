"""Where data come from: a file, a built-in set, or data in memory."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from mlvae.data.builtin import BUILTIN
from mlvae.data.grouped import GroupedData
from mlvae.errors import DataError, nearest


def read(
    source: str | os.PathLike[str] | GroupedData,
    by: str | None = None,
    *,
    missing: str = "error",
    x: str = "x",
) -> GroupedData:
    """Reads grouped data.

    Args:
        source: the path of an `.npz` file (observations (N, *shape) and any number of columns (N,)), the name
            of a built-in set ("digits", "avatars"), or data that are to be grouped by another column.
        by: the grouping column. None: the column "group", or else the only column.
        missing: what to do with rows without a group: "error", "drop", or "own" (each a group of its own).
        x: which array of a file holds the observations.

    Raises:
        DataError: there is no such file, set, array or column; or the file is damaged or holds objects.

    Example:
        >>> read("digits")
        GroupedData('digits': 1797 x (8, 8) float32, 10 groups by 'group' of 174-183, columns: split)
    """
    if isinstance(source, GroupedData):
        return source if by is None else source.grouped_by(by, missing=missing)
    if source in BUILTIN:
        return read(BUILTIN[str(source)](), by, missing=missing)
    path = Path(source)
    reader = READERS.get(path.suffix.lower())
    if not path.is_file():
        what = "a directory" if path.is_dir() else "no such file"
        raise DataError(
            f"Expected a file or a built-in set; got {str(source)!r}, {what}. " + nearest(str(source), BUILTIN)
        )
    if reader is None:
        raise DataError(
            f"Expected a file ending in {' or '.join(READERS)}; got {path.name!r}. "
            "Load it yourself and use GroupedData.from_arrays(x, groups)."
        )
    arrays = dict(reader(path))
    if x not in arrays:
        raise DataError(
            f"Expected an array {x!r} in {path.name}. Name the one that holds the observations: "
            f"read(..., x=...). {nearest(x, arrays)}"
        )
    observations = arrays.pop(x)
    count = len(observations) if observations.ndim else 0
    # Arrays of another shape are vocabularies and notes that travel with the data, not columns.
    columns = {name: array for name, array in arrays.items() if array.shape == (count,)}
    by = _grouping_column(by, columns, arrays, count, path.name)
    return GroupedData.from_arrays(observations, columns=columns, by=by, name=path.stem, missing=missing)


def _grouping_column(
    by: str | None, columns: Mapping[str, np.ndarray], arrays: Mapping[str, np.ndarray], count: int, file: str
) -> str:
    if by is None and "group" in arrays:
        by = "group"
    if by is None and len(columns) == 1:
        by = next(iter(columns))
    if by is None:
        known = ", ".join(map(repr, columns)) or f"none of shape ({count},)"
        raise DataError(f"Expected the name of the grouping column of {file}: read(..., by=...). Its columns: {known}.")
    if by not in arrays:
        known = nearest(by, columns) if columns else f"It has no column of shape ({count},)."
        raise DataError(f"Expected a column of {file}; got {by!r}. {known}")
    if by not in columns:
        raise DataError(
            f"Expected {by!r} of shape ({count},), a label for each observation; got {arrays[by].shape}. "
            "Choose another column, or save one label for each row."
        )
    return by


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    name = None
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            raise DataError(
                f"Expected named arrays in {path.name}; got a single one. Save with np.savez(path, x=x, group=group)."
            )
        with loaded as file:
            arrays = {}
            for name in file.files:
                arrays[name] = file[name]
        return {key: array for key, array in arrays.items() if isinstance(array, np.ndarray)}
    except DataError:
        raise
    except (
        OSError,
        EOFError,
        ValueError,
        KeyError,
        NotImplementedError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        if name is not None and "Object arrays" in str(error):
            raise DataError(
                f"Expected numbers or strings in array {name!r} of {path.name}; got Python objects, which "
                f"are never loaded. Save it again with {name}={name}.astype(str)."
            ) from error
        where = f"array {name!r} of {path.name}" if name is not None else path.name
        raise DataError(
            f"Expected a whole .npz file; {where} cannot be read ({error}). Was the copy cut off?"
        ) from error


READERS: dict[str, Callable[[Path], Mapping[str, np.ndarray]]] = {
    ".npz": _read_npz,
}
"""By file ending: a function from a path to named arrays. A new kind of file is one function and one line."""
