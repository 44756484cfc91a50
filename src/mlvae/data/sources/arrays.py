"""Arrays in files: `.npz` with named arrays, `.npy` with a table of columns beside it."""

from __future__ import annotations

import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from mlvae.data.rounding import warn_of_rounding
from mlvae.data.sources.raw import Asked, Raw
from mlvae.data.stored import Stored
from mlvae.errors import DataError, nearest
from mlvae.untrusted import check_array, check_expansion, reading


def npz(path: Path, asked: Asked) -> Raw:
    """Observations and columns by name."""
    arrays = read_npz(path)
    if asked.x not in arrays:
        raise DataError(
            f"Expected an array {asked.x!r} in {path.name}. Name the one that holds the observations: "
            f"read(..., x=...) from Python, or call it {asked.x!r}. {nearest(asked.x, arrays)}"
        )
    observations = arrays.pop(asked.x)
    count = len(observations) if observations.ndim else 0
    # Arrays of another shape are vocabularies and notes that travel with the data, not columns.
    columns = {name: array for name, array in arrays.items() if array.shape == (count,)}
    others = {name: array.shape for name, array in arrays.items() if name not in columns}
    return Raw(observations, columns, path.stem, others=others)


def npy(path: Path, asked: Asked) -> Raw:
    """Observations (N, ...), mapped or in memory, and the columns of a table of the same name beside them."""
    from mlvae.data.sources.tables import labels_of

    stored = Stored(path)
    warn_of_rounding(np.load(path, mmap_mode="r", allow_pickle=False), f"{path.name!r}")
    found = columns_beside(path)
    columns = {} if found is None else read_npz(found) if found.suffix == ".npz" else labels_of(found)
    for name, values in columns.items():
        if values.shape != (len(stored),):
            raise DataError(
                f"Expected a label for each of the {len(stored)} rows of {path.name} in {found and found.name}; column"
                f" {name!r} has the shape {values.shape}."
            )
    return Raw(stored[:] if asked.keep(path.stat().st_size) else stored, columns, path.stem)


def columns_beside(path: Path) -> Path | None:
    """The table that names the rows of an ``.npy`` file: of the same name, in another format."""
    return next((file for ending in (".parquet", ".csv", ".npz") if (file := path.with_suffix(ending)).is_file()), None)


def read_npz(path: Path, only: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """All arrays of a file, or those that are named.

    Raises:
        DataError: the file is damaged, holds a single array or objects, or would expand to far more than it holds.
    """
    with reading(".npz file", path, advice="Was the copy cut off?"):
        with path.open("rb") as file:
            if file.read(6) == b"\x93NUMPY":
                raise DataError(
                    f"Expected named arrays in {path.name}; got a single one."
                    " Save with np.savez(path, x=x, group=group)."
                )
        with zipfile.ZipFile(path) as archive:
            members = {name: each for name, each in _members(archive).items() if only is None or name in only}
            expanded = sum(member.file_size for member in members.values())
            check_expansion(expanded, path, "If it is meant, save it with np.savez, uncompressed, or as .npy.")
            arrays: dict[str, np.ndarray] = {}
            for name, member in members.items():
                with reading(".npz file", f"array {name!r} of {path.name}", advice="Was the copy cut off?"):
                    arrays[name] = _array(archive, member, name, path)
    return arrays


def npz_types(path: Path) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """The shape and type of each array of a file, none of which is read.

    Raises:
        DataError: the file is damaged.
    """
    with reading(".npz file", path, advice="Was the copy cut off?"), zipfile.ZipFile(path) as archive:
        return {name: _header(archive, member) for name, member in _members(archive).items()}


def _members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    names = {member.filename: member for member in archive.infolist() if member.filename.endswith(".npy")}
    return {name.removesuffix(".npy"): member for name, member in names.items()}


def _header(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> tuple[tuple[int, ...], np.dtype[Any]]:
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, kind = header(file)
    return shape, kind


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: str, path: Path) -> np.ndarray:
    """One array, once its header asks for no more than there is: numpy would reserve all that it asks for."""
    shape, kind = _header(archive, member)
    if kind.hasobject:
        raise DataError(
            f"Expected numbers or strings in array {name!r} of {path.name}; got Python objects, which "
            f"are never loaded. Save it again with {name}={name}.astype(str)."
        )
    check_array(shape, kind.itemsize, member.file_size)
    with archive.open(member) as file:
        return np.asarray(np.lib.format.read_array(file, allow_pickle=False))
