"""A column of vectors, as another model's embeddings: lists of one length, or lists of lists."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from mlvae.data.rounding import Rounding
from mlvae.data.sources import cache
from mlvae.data.sources.files import Table, refuse_homeless
from mlvae.data.sources.raw import Asked
from mlvae.errors import DataError


def vectors(table: Table, name: str, asked: Asked) -> tuple[Any, bool]:
    """A column of lists of one length, or of lists of lists, as (N, *shape), in memory or kept on disk; and its gaps.

    uint8 stays where no number is missing; everything else is float32.

    Raises:
        DataError: they differ in length, or a row has none.
    """
    rounding, gaps = Rounding(), [False]
    blocks = _lists(table, name, rounding)
    first = next(blocks)
    shape, kind = first.shape[1:], first.dtype
    if kind == np.uint8 and missing(table, name):  # in a later block: uint8 has no NaN
        kind = np.dtype(np.float32)

    def alike() -> Iterator[np.ndarray[Any, Any]]:
        for block in itertools.chain([first], blocks):
            if block.shape[1:] != shape:
                raise DataError(_lengths(table, name))
            gaps[0] |= bool(np.isnan(block).any())
            yield block

    if asked.keep(table.rows * math.prod(shape) * kind.itemsize):
        x: Any = np.empty((table.rows, *shape), kind)
        start = 0
        for block in alike():
            x[start : start + len(block)] = block
            start += len(block)
    else:
        refuse_homeless(table)
        path = cache.place(
            asked.cache, table.files[0].parent, table.name, {"vectors": name, "kind": kind.name}, table.files
        )
        if not path.exists():
            cache.write(path, shape, kind, alike(), gaps)
        x, gaps = cache.load(path, in_memory=False)
    rounding.warn(f"column {name!r}")
    return x, gaps[0]


def missing(table: Table, name: str) -> bool:
    """Whether a number is missing somewhere in such a column."""
    for batch in table.batches([name]):
        column = batch.column(name)
        while _is_list(column.type):
            column = column.flatten()
        if column.null_count:
            return True
    return False


def as_decimals(kind: Any) -> Any:
    """The Arrow type of such a column of uint8 as one of float32; None for other types."""
    import pyarrow as pa

    if not _is_list(kind):
        return pa.float32() if pa.types.is_uint8(kind) else None
    inner = as_decimals(kind.value_type)
    return None if inner is None else pa.list_(inner)


def _lists(table: Table, name: str, rounding: Rounding) -> Iterator[np.ndarray[Any, Any]]:
    """Some rows of such a column at a time; what becomes of its numbers in float32 is noted."""
    import pyarrow as pa

    for batch in table.batches([name]):
        column, shape = batch.column(name), [len(batch)]
        while _is_list(column.type):
            if column.null_count:
                raise DataError(f"Expected a vector in every row of column {name!r} of {table.name}; some are null.")
            flat = column.flatten()
            if len(column) and len(flat) % len(column):
                raise DataError(_lengths(table, name))
            shape.append(len(flat) // max(len(column), 1))
            if not pa.types.is_fixed_size_list(column.type) and not _even(column, shape[-1]):
                raise DataError(_lengths(table, name))
            column = flat
        values = column.to_numpy(zero_copy_only=False)
        if values.dtype == np.float64:
            rounding.add(values.reshape(shape))
        yield np.asarray(values, np.uint8 if values.dtype == np.uint8 else np.float32).reshape(shape)


def _is_list(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _even(column: Any, length: int) -> bool:
    import pyarrow.compute as pc

    return bool(pc.all(pc.equal(pc.list_value_length(column), length)).as_py())


def _lengths(table: Table, name: str) -> str:
    return (
        f"Expected vectors of one length in column {name!r} of {table.name}; they differ. Pad them, with a null for"
        f" what is"
        " not there: `mlvae.data.padded` does that for sequences, with gaps=True."
    )
