"""Arrays in files: `.npz` with named arrays, `.npy` with a table of columns beside it."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np

from mlvae.data.sources.raw import Asked, Raw
from mlvae.data.stored import Stored
from mlvae.errors import DataError, nearest


def npz(path: Path, asked: Asked) -> Raw:
    """Observations and columns by name."""
    arrays = read_npz(path)
    if asked.x not in arrays:
        raise DataError(
            f"Expected an array {asked.x!r} in {path.name}. Name the one that holds the observations: "
            f"read(..., x=...). {nearest(asked.x, arrays)}"
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
    beside = [path.with_suffix(ending) for ending in (".parquet", ".csv", ".npz")]
    found = next((file for file in beside if file.is_file()), None)
    columns = {} if found is None else read_npz(found) if found.suffix == ".npz" else labels_of(found)
    for name, values in columns.items():
        if values.shape != (len(stored),):
            raise DataError(
                f"Expected a label for each of the {len(stored)} rows of {path.name} in {found and found.name}; column"
                f" {name!r} has the shape {values.shape}."
            )
    return Raw(stored[:] if asked.keep(path.stat().st_size) else stored, columns, path.stem)


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """All arrays of a file.

    Raises:
        DataError: the file is damaged, holds a single array, or objects.
    """
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
