"""Rows of tables and sequences from outside: bounded before they are decoded, checked against the model, never written.

A table's columns are found by name, as everywhere; arrays must have the model's shape, or be easy to bring to it.
"""

from __future__ import annotations

import io
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mlvae.data import padded
from mlvae.data.sources import delimited, files, tables
from mlvae.data.sources.raw import Asked
from mlvae.errors import DataError
from mlvae.schema import Schema
from mlvae.untrusted import reading

ROWS = 200
"""Observations of a file."""

COLUMNS = 10_000
"""Columns, or arrays, of a file."""

DECODED = 64 * 2**20
"""Bytes of what a file holds, once it is decompressed."""

KINDS = "CSV, TSV, Parquet, .npz or .npy"

NAME = Path("the file")


def table_rows(content: bytes, schema: Schema) -> Tensor:
    """Rows of a table (N, F) in its own units, columns by name; those that are no features are passed over.

    Args:
        content: of a CSV, TSV or Parquet file; of an `.npz` file with an array (N,) a column; of an `.npy` file (N, F),
            or (F,), where all features are numbers.
        schema: with the features that the model was trained with.

    Raises:
        DataError: too large, damaged, a column is not there, or holds something else.
    """
    import pyarrow as pa

    names = [feature.name for feature in schema.features]
    found = _opened(content, named=True)
    if isinstance(found, np.ndarray):
        found = _by_name(found, schema)
    if isinstance(found, dict):
        columns = {name: array for name, array in found.items() if name in names}
        if len({array.shape for array in columns.values()} | {(0,)}) > 2 or any(a.ndim != 1 for a in columns.values()):
            raise DataError(f"Expected arrays (N,) of one length in the file; got {_shapes(columns)}.")
        found = pa.table({name: pa.array(array) for name, array in columns.items()})
    if found.num_rows > ROWS:
        raise DataError(f"Expected at most {ROWS} rows in a file; got {found.num_rows:,}. Send some of them.")
    kept = found.select([name for name in found.column_names if name in names])
    if not kept.num_columns:
        raise DataError(
            f"Expected the columns that the model was trained with, {_some(names)}, in the file; got"
            f" {_some(found.column_names) if found.num_columns else 'none'}. Name them in its first line."
        )
    with files.wrap(NAME, "table"):
        return torch.from_numpy(tables.from_table(files.in_memory(kept, str(NAME)), Asked(like=schema)).x)


def sequences(content: bytes, shape: tuple[int, ...], gaps: bool, axis: int = 0) -> Tensor:
    """Observations (N, *shape) of numbers.

    Args:
        content: of an `.npy` file, or an `.npz` file with an array `x`, (N, *shape) or (*shape); of a CSV, TSV or
            Parquet file: a row an observation where the model's are (F,), else a row a step and a column a channel;
            or Parquet with a column of vectors.
        shape: of an observation.
        gaps: what is behind the end of a shorter sequence is a gap.
        axis: of an observation, along which its steps are.

    Raises:
        DataError: too large, damaged, of another shape, or not numbers.
    """
    found = _opened(content, named=False)
    if isinstance(found, dict):
        if "x" not in found and len(found) != 1:
            raise DataError(f"Expected an array 'x' in the file; got {_some(list(found))}. Rename the right one.")
        found = found.get("x", next(iter(found.values())))
    array = found if isinstance(found, np.ndarray) else _matrix(found)
    if array.dtype.kind not in "biuf":
        raise DataError(f"Expected numbers in the file; got {array.dtype}. Send the observations alone.")
    many = _arranged(array, shape)
    steps = axis % len(shape)
    if gaps and many.ndim == len(shape) + 1 and 0 < many.shape[1 + steps] < shape[steps]:
        many = padded(list(many), shape[steps], axis)
    if many.shape[1:] != shape or not len(many):
        raise DataError(
            f"Expected observations of shape {shape}, alone or one after another; got an array of shape {array.shape}."
            f" {'Cut it to that length' if gaps else 'Bring it to that shape'}."
        )
    if len(many) > ROWS:
        raise DataError(f"Expected at most {ROWS} observations in a file; got {len(many):,}. Send some of them.")
    return torch.from_numpy(np.array(many, np.uint8 if many.dtype == np.uint8 else np.float32))


def _arranged(array: np.ndarray[Any, Any], shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """(N, ...) of what may be one observation, a column of its numbers, or its steps by its channels."""
    if len(shape) == 1 and shape != (1,) and array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if len(shape) == 2 and array.shape != shape and array.shape == shape[::-1]:
        array = array.T
    return array[None] if array.ndim == len(shape) else array


def _opened(content: bytes, named: bool) -> Any:
    """An array, arrays by name, or an Arrow table, by how the file begins.

    Args:
        content: of the file.
        named: the first line of a CSV file names its columns; else it may be numbers already.
    """
    with reading(f"{KINDS} file", NAME, advice="Save it again."):
        if content[:6] == b"\x93NUMPY":
            return _array(content)
        if content[:4] == b"PK\x03\x04":
            return _arrays(content)
    if content[:4] == b"PAR1":
        return _parquet(content)
    if not content.strip() or b"\0" in content:
        raise DataError(f"Expected a {KINDS} file; got one that is none of them. Save it as one.")
    return _csv(content, named)


def _array(content: bytes) -> np.ndarray[Any, Any]:
    stream = io.BytesIO(content)
    # The size stands in the head of the file: numpy would make room for it before it finds that it is not there.
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, kind = read(stream)
    if kind.kind not in "biufU":
        raise DataError(f"Expected numbers or words in the file; got {kind}. Save it as float32 (`x.astype(...)`).")
    _refuse_large(int(np.prod(shape, dtype=object)) * kind.itemsize)
    stream.seek(0)
    found: np.ndarray[Any, Any] = np.load(stream, allow_pickle=False)
    return found


def _arrays(content: bytes) -> dict[str, np.ndarray[Any, Any]]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = [member for member in archive.infolist() if member.filename.endswith(".npy")]
        if not members:
            raise DataError(f"Expected arrays in a .npz file; got a zip file without. Save a spreadsheet as {KINDS}.")
        if len(members) > COLUMNS:
            raise DataError(f"Expected at most {COLUMNS:,} arrays in a file; got {len(members):,}. Leave some out.")
        _refuse_large(sum(member.file_size for member in members))
        arrays = {}
        for member in members:
            with archive.open(member) as opened:  # read(n) stops at n, whatever else is in there
                arrays[member.filename.removesuffix(".npy")] = _array(opened.read(member.file_size))
    return arrays


def _parquet(content: bytes) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with files.wrap(NAME, "Parquet"), pq.ParquetFile(pa.BufferReader(content)) as opened:
        about = opened.metadata
        _refuse_columns(about.num_columns)
        groups = sum(about.row_group(place).total_byte_size for place in range(about.num_row_groups))
        # A column that repeats one value takes next to nothing until it is read.
        _refuse_large(max(groups, about.num_rows * about.num_columns * 8))
        return opened.read(use_threads=False)


def _csv(content: bytes, named: bool) -> Any:
    header = content.split(b"\n", 1)[0]
    delimiter = delimited.delimiter(header)
    _refuse_columns(header.count(delimiter.encode()) + 1)
    fields = header.decode(errors="replace").strip().split(delimiter)
    bare = not named and all(re.match(tables.NUMBERS, field.strip(' "')) for field in fields)
    return delimited.read_csv(content, NAME, delimiter, header=not bare)


def _matrix(table: Any) -> np.ndarray[Any, Any]:
    """All columns of an Arrow table, (R, C); or its one column of vectors."""
    seen = files.in_memory(table, str(NAME))
    vectors = [name for name, kind in seen.types.items() if kind == "vector"]
    with files.wrap(NAME, "table"):
        if len(vectors) == 1:
            x: np.ndarray[Any, Any] = tables.from_table(seen, Asked(features=vectors[0])).x
            return x
        for name, kind in seen.types.items():
            if kind not in ("number", "binary"):
                raise DataError(f"Expected numbers in the file; column {name!r} holds something else. Leave it out.")
        columns = [table.column(name).combine_chunks() for name in seen.types]
        values = [tables.floats(column, name, seen) for column, name in zip(columns, seen.types, strict=True)]
    return np.stack(values, 1)


def _by_name(array: np.ndarray[Any, Any], schema: Schema) -> dict[str, np.ndarray[Any, Any]]:
    names = [feature.name for feature in schema.features]
    if words := [feature.name for feature in schema.features if feature.kind == "category"]:
        raise DataError(
            f"Expected columns by name, as {words[0]!r} holds words; got a bare array. Send CSV, Parquet or .npz."
        )
    rows = array[None] if array.ndim == 1 else array
    if rows.ndim != 2 or rows.shape[1] != len(names):
        raise DataError(f"Expected an array (N, {len(names)}), columns {_some(names)}; got {array.shape}.")
    return dict(zip(names, rows.T, strict=True))


def _refuse_large(nbytes: int) -> None:
    if nbytes > DECODED:
        raise DataError(
            f"Expected at most {DECODED // 2**20} MB in a file, decompressed; got {nbytes / 2**20:,.0f} MB. Send less."
        )


def _refuse_columns(count: int) -> None:
    if count > COLUMNS:
        raise DataError(f"Expected at most {COLUMNS:,} columns in a file; got {count:,}. Leave some out.")


def _some(names: list[str]) -> str:
    text = ", ".join(map(repr, names[:5]))
    return text if len(names) <= 5 else f"{text} and {len(names) - 5} more"


def _shapes(arrays: dict[str, np.ndarray[Any, Any]]) -> str:
    return ", ".join(f"{name!r} {array.shape}" for name, array in list(arrays.items())[:5])
